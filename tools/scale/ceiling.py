"""The third part: how many spans a second one relay sends to a backend that takes its time."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanKind

from bench.children import Process
from taskobs.protocol import frames, span_encoder
from taskobs.relay.counters import EXPORTED, Counters
from taskobs.relay.export.otlp import SpanSender
from taskobs.relay.storage.items import Item
from taskobs.relay.storage.memory import MemoryStore

DELAYS: Final = (0.0, 0.01, 0.05, 0.2)
"""Seconds that the backend takes for a response."""
SECONDS: Final = 3.0
_WAITING: Final = 4 * SpanSender.limits.items
"""Spans that wait at any time, so that a batch is never waited for."""
_ATTRIBUTES: Final[dict[str, str | int]] = {
    **dict.fromkeys(("celery.task_name", "celery.queue", "celery.outcome"), "shop.orders.task_00"),
    **dict.fromkeys(("celery.task_id", "messaging.message.id"), "d" * 36),
    **{f"celery.attribute_{number}": number for number in range(11)},
}
_BACKEND: Final = """
import sys, time
from http import HTTPStatus
from taskobs.testing.http_server import LoopbackServer, TelemetryHandler
class Handler(TelemetryHandler):
    def post(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(float(sys.argv[1]))
        self.answer(HTTPStatus.OK)
server = LoopbackServer(0, Handler)
server.start()
print(server.server_port, flush=True)
sys.stdin.read()
server.close()
"""


@dataclass(frozen=True)
class Ceiling:
    """What one relay sent to one backend."""

    delay: float
    """Seconds that each response took."""
    rate: float
    """Spans a second."""
    cpu: float
    """Seconds of CPU for 1,000 spans: of the store, the encoder and the exporter."""


def measure(delays: Sequence[float] = DELAYS, seconds: float = SECONDS) -> list[Ceiling]:
    """Let a relay's own sender send as fast as it can, for each delay."""
    items = _items(4 * _WAITING)
    return [_one(items, delay, seconds) for delay in delays]


def _one(items: Sequence[Item], delay: float, seconds: float) -> Ceiling:
    print(f"relay: responses after {delay} s", file=sys.stderr, flush=True)
    with Process("-c", _BACKEND, str(delay)) as backend:
        endpoint = f"http://127.0.0.1:{backend.read()}/v1/traces"
        exporter = {"protocol": "http/protobuf", "endpoint": endpoint, "headers": None}
        counters = Counters()
        store = MemoryStore(counters)
        sender = SpanSender(store, counters, exporter)
        sender.start()
        _feed(store, items, 1.0)
        began, cpu, before = time.monotonic(), time.process_time(), _sent(counters)
        _feed(store, items, seconds)
        elapsed, used = time.monotonic() - began, time.process_time() - cpu
        sent = _sent(counters) - before
        store.close()
        sender.join(10)
    return Ceiling(delay, sent / elapsed, used / sent * 1000)


def _feed(store: MemoryStore, items: Sequence[Item], seconds: float) -> None:
    end = time.monotonic() + seconds
    step = SpanSender.limits.items
    while time.monotonic() < end:
        if store.pending("span").items < _WAITING:
            store.append(items[:step])
        else:
            time.sleep(0.002)


def _sent(counters: Counters) -> int:
    return counters.total(EXPORTED, "span")


def _items(number: int) -> list[Item]:
    provider = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    tracer = provider.get_tracer("taskobs")
    blob = frames.pack([{"service.name": "shop", "process.pid": 7}, ""])
    made: list[Item] = []
    for _ in range(number):
        span = tracer.start_span("run shop.orders.task_00", kind=SpanKind.CONSUMER)
        span.set_attributes(_ATTRIBUTES)
        span.end()
        if isinstance(span, ReadableSpan):
            made.append(Item("span", span_encoder.split(span_encoder.pack_end(span))[1], blob))
    return made
