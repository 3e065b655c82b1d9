"""A backend that counts what it is sent: requests, bytes, and what is in them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from taskobs.testing.http_server import HOST, METRICS, LoopbackServer, TelemetryHandler, decoded
from taskobs.testing.wire import ReceivedEvent, ReceivedLog, ReceivedSpan

if TYPE_CHECKING:
    from typing_extensions import Self

LARGEST: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class Arrival:
    """One request."""

    path: str
    sent: int
    """Its bytes: request line, headers and body, as they were sent."""
    body: bytes
    """Without its compression."""


@dataclass(frozen=True)
class Signal:
    """What came of one kind."""

    requests: int = 0
    bytes: int = 0
    items: int = 0


@dataclass(frozen=True)
class Metrics:
    """One export of metrics, the largest, and what all of them had series for."""

    bytes: int = 0
    points: int = 0
    """Series as OTLP has them: a histogram is one."""
    series: int = 0
    """Series as Prometheus has them: a histogram is one for each bucket, a sum and a count."""


@dataclass(frozen=True)
class Received:
    """All that came."""

    spans: Signal
    logs: Signal
    events: Signal
    metrics: Metrics


class CountingServer(LoopbackServer):
    """Keeps each request. A context manager."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.last = time.monotonic()
        """When the last request came."""
        self._noting = threading.Lock()
        super().__init__(0, _Handler)
        self.start()

    @property
    def endpoint(self) -> str:
        """The value for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"http://{HOST}:{self.server_port}"

    @property
    def dsn(self) -> str:
        """The value for ``SENTRY_DSN``."""
        return f"http://key@{HOST}:{self.server_port}/1"

    def note(self, arrival: Arrival) -> None:
        """Keep a request."""
        with self._noting:
            self.arrivals.append(arrival)
            self.last = time.monotonic()

    def received(self) -> Received:
        """Count what has come so far."""
        with self._noting:
            return count(list(self.arrivals))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Handler(TelemetryHandler):
    max_body = LARGEST

    def post(self) -> None:
        head = len(f"{self.requestline}\r\n") + len(self.headers.as_bytes())
        sent = head + int(self.headers.get("Content-Length", 0))
        body = self.read_body()
        cast("CountingServer", self.server).note(Arrival(self.route, sent, body))
        self.answer(HTTPStatus.OK)


def count(arrivals: Sequence[Arrival]) -> Received:
    """Count what requests have in them."""
    found = [(one, decoded(one.path, one.body)) for one in arrivals]
    return Received(
        spans=_signal(found, ReceivedSpan),
        logs=_signal(found, ReceivedLog),
        events=_signal(found, ReceivedEvent),
        metrics=count_metrics([one for one in arrivals if one.path == METRICS]),
    )


def _signal(found: Sequence[tuple[Arrival, Sequence[Any]]], kind: type) -> Signal:
    counts = [(one, sum(isinstance(item, kind) for item in items)) for one, items in found]
    held = [(one, number) for one, number in counts if number]
    return Signal(len(held), sum(one.sent for one, _ in held), sum(number for _, number in held))


def count_metrics(arrivals: Sequence[Arrival]) -> Metrics:
    """Count the series of exports, each once however often it was exported."""
    series: dict[object, int] = {}
    for one in arrivals:
        series.update(series_in(one.body))
    largest = max((one.sent for one in arrivals), default=0)
    return Metrics(largest, len(series), sum(series.values()))


def series_in(body: bytes) -> Iterator[tuple[object, int]]:
    """Give each series of an export by what identifies it, with how many Prometheus makes of it."""
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        whose = resource.resource.SerializeToString(deterministic=True)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                data = getattr(metric, cast("str", metric.WhichOneof("data")))
                for point in data.data_points:
                    labels = frozenset(one.SerializeToString() for one in point.attributes)
                    bounds = getattr(point, "explicit_bounds", None)
                    yield (whose, metric.name, labels), 1 if bounds is None else len(bounds) + 3
