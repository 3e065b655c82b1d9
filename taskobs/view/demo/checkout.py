"""The shop's web side: places two orders, waits for them, prints each outcome as JSON."""

from __future__ import annotations

import json
import sys
from typing import cast

from celery.exceptions import TimeoutError as ResultTimeoutError
from celery.result import AsyncResult, result_from_tuple
from opentelemetry import trace

from taskobs.view.demo import shop

WAIT = 60.0
INTERVAL = 0.02
ORDERS = (
    (1001, ["tea", "teapot", "cups"], "4242 4242 4242 4242"),
    (1002, ["kettle"], shop.DECLINED),
)


def place_order(order: int, items: list[str], card: str) -> tuple[str, AsyncResult[object]]:
    """Place an order as a web request would; give the request's trace id and the result."""
    tracer = trace.get_tracer("shop")
    with tracer.start_as_current_span("POST /orders", kind=trace.SpanKind.SERVER) as span:
        span.set_attribute("http.route", "/orders")
        result = shop.place_order.delay(order, items, card)
    return f"{span.get_span_context().trace_id:032x}", result


def outcome(result: AsyncResult[object]) -> str:
    """Wait for all steps of an order; raises Celery's ``TimeoutError`` after `WAIT` seconds."""
    steps = cast("tuple[object, ...]", result.get(timeout=WAIT, interval=INTERVAL))
    last = cast("AsyncResult[object]", result_from_tuple(steps, app=shop.app))
    try:
        last.get(timeout=WAIT, interval=INTERVAL)
    except ResultTimeoutError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever ended the order is its outcome
        return f"{type(error).__name__}: {error}"
    return "delivered"


def main() -> None:
    """Place all orders at once, then report each on a line of its own."""
    placed = [(order, *place_order(order, items, card)) for order, items, card in ORDERS]
    for order, trace_id, result in placed:
        report = {"order": order, "trace_id": trace_id, "outcome": outcome(result)}
        sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
