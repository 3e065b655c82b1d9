"""Place two orders, one of which the bank declines, and say where to see them."""

from __future__ import annotations

from opentelemetry import trace
from tasks import DECLINED, place_order

JAEGER = "http://localhost:16686"
ORDERS = {1001: "4242 4242 4242 4242", 1002: DECLINED}


def main() -> None:
    """Publish each order within a span, as the request of a web framework would be."""
    tracer = trace.get_tracer("quickstart")
    for order, card in ORDERS.items():
        with tracer.start_as_current_span("POST /orders") as span:
            place_order.delay(order, card)
        print(f"order {order}: {JAEGER}/trace/{span.get_span_context().trace_id:032x}")


if __name__ == "__main__":
    main()
