"""What a worker and its relay count arrives at a backend."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from taskobs.metrics.families import Family, Sample
from taskobs.metrics.snapshot import Snapshot, pack_snapshot
from taskobs.metrics.worker_table import WorkerTable
from taskobs.protocol import frames
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay.counters import Counters
from taskobs.relay.metrics import exporter as metrics_exporter
from taskobs.relay.metrics.collected import Collected, WorkerMetrics
from taskobs.relay.metrics.exporter import MetricsSender, start_metrics
from tests.support.export import (
    PATIENCE,
    RESOURCE_BLOB,
    Backend,
    Reply,
    backend,
    exporter,
)

RECEIVED = "celery.task.received"
RESOURCE = {"service.name": "shop"}
NOTHING: Callable[[], None] = lambda: None  # noqa: E731  # no blob


def snapshot(received: int, **more: Any) -> bytes:
    """Make the payload of a METRICS frame of one counter."""
    samples = [Sample({"celery.task_name": "shop.pay"}, received)]
    family = Family(name=RECEIVED, kind="counter", meaning="", samples=samples)
    given: dict[str, Any] = {"since": time.time_ns(), "families": [family], **more}
    return pack_snapshot(Snapshot(**given, resource=RESOURCE))


def points(body: bytes) -> dict[str, list[tuple[dict[str, str], Any]]]:
    """Read a request: by metric, the attributes and value of each point."""
    request = ExportMetricsServiceRequest()
    request.ParseFromString(body)
    found: dict[str, list[tuple[dict[str, str], Any]]] = {}
    for metric in request.resource_metrics[0].scope_metrics[0].metrics:
        data = getattr(metric, str(metric.WhichOneof("data")))
        for point in data.data_points:
            attributes = {pair.key: pair.value.string_value for pair in point.attributes}
            value = point.count if hasattr(point, "count") else (point.as_int or point.as_double)
            found.setdefault(metric.name, []).append((attributes, value))
    return found


DAY_NS = 86_400 * 10**9


def periods(body: bytes) -> list[tuple[int, int]]:
    """Read a request: when each point of a count begins, and when it was taken."""
    request = ExportMetricsServiceRequest()
    request.ParseFromString(body)
    return [
        (point.start_time_unix_nano, point.time_unix_nano)
        for metric in request.resource_metrics[0].scope_metrics[0].metrics
        for point in getattr(metric, str(metric.WhichOneof("data"))).data_points
    ]


@contextmanager
def sending(there: Backend, metrics: WorkerMetrics) -> Generator[MetricsSender]:
    """Have a sender of metrics for the length of a block; it sends once more at its end."""
    sender = start_metrics(metrics.collect, exporter(there))
    assert isinstance(sender, MetricsSender)
    try:
        yield sender
    finally:
        sender.stop(PATIENCE)


def of_relay(counters: Counters | None = None) -> WorkerMetrics:
    """Make the metrics of a relay whose worker counts nothing."""
    return WorkerMetrics(counters or Counters(), lambda: RESOURCE_BLOB)


def test_counts_and_figures_arrive_at_the_end() -> None:
    """A worker that ran for a second still has its metrics in the backend, under its name."""
    counters = Counters()
    counters.add("exported", "span", 3)
    counters.dropped("span", 2, "overflow")
    counters.gauge("pending", lambda: 5, "span")
    counters.gauge("of no name", lambda: 5)
    metrics = of_relay(counters)
    metrics.take(snapshot(3))
    with backend() as there:
        with sending(there, metrics):
            pass
        [request] = there.requests
        assert request.path == "/v1/metrics"
        found = points(request.body)
        assert b"shop" in request.body
    assert found["taskobs.relay.exported"] == [({"taskobs.kind": "span"}, 3)]
    assert found["taskobs.relay.dropped"] == [
        ({"taskobs.kind": "span", "taskobs.reason": "overflow"}, 2)
    ]
    assert found["taskobs.relay.pending"] == [({"taskobs.kind": "span"}, 5)]
    assert found[RECEIVED] == [({"celery.task_name": "shop.pay"}, 3)]


def test_counts_add_up_from_one_export_to_the_next() -> None:
    """Cumulative is what backends expect unless told otherwise; what comes twice counts once."""
    metrics = of_relay()
    with backend() as there:
        with sending(there, metrics) as sender:
            metrics.take(snapshot(1))
            sender.send()
            metrics.take(snapshot(2))
            metrics.take(snapshot(2))
        values = [points(one.body)[RECEIVED][0][1] for one in there.requests]
    assert values == [1, 2]


def test_counts_never_fall_where_two_send_at_the_same_time() -> None:
    """A flush strikes while metrics are sent: no backend takes a smaller sum for a restart."""
    metrics = of_relay()
    flushes: list[Thread] = []

    def collect() -> Collected:
        found = metrics.collect()
        if not flushes:
            metrics.take(snapshot(2))
            flushes.append(Thread(target=sender.send))
            flushes[0].start()
            flushes[0].join(0.2)  # it may wait for this one
        return found

    metrics.take(snapshot(1))
    with backend() as there:
        sender = MetricsSender(collect, exporter(there))
        sender.start()
        sender.send()
        flushes[0].join(PATIENCE)
        sender.stop(PATIENCE)
        values = [points(one.body)[RECEIVED][0][1] for one in there.requests]
    assert values == [1, 2, 2]


def test_deltas_where_they_are_asked_for_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """My backend wants deltas: each run is in one of them, also when one export fails."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "DELTA")
    counters = Counters()
    metrics = of_relay(counters)
    with backend(Reply(200), Reply(503)) as there:
        with sending(there, metrics) as sender:
            for number in range(3):
                metrics.take(snapshot(number + 1))
                counters.add("exported", "span", 5)
                sender.send()
            metrics.take(snapshot(4))
        found = [points(one.body) for one in there.requests]
    assert [one[RECEIVED][0][1] for one in found] == [1, 1, 2, 1]
    assert [one["taskobs.relay.exported"][0][1] for one in found] == [5, 5, 10, 0]


@pytest.mark.parametrize("killed", [False, True])
def test_deltas_lose_nothing_with_a_relay_that_is_killed(
    killed: bool,  # noqa: FBT001  # pytest gives it
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """My backend wants deltas, and a relay is replaced: each run is in one of them all the same."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    memory = SharedMemory.create()
    assert memory is not None
    assert memory.exported() is None
    with backend() as there:
        for number in (2, 5, 9):
            counters = Counters()
            counters.add("exported", "span", 5)
            metrics = of_relay(counters)
            metrics.take(snapshot(number))
            sender = MetricsSender(metrics.collect, exporter(there), memory=memory)
            sender.send()
            if not killed:  # it sends a last time, with all that came meanwhile
                metrics.take(snapshot(number + 1))
                sender.send()
        found = [points(one.body) for one in there.requests]
    memory.close()
    assert sum(one[RECEIVED][0][1] for one in found) == (9 if killed else 10)
    assert [one["taskobs.relay.exported"][0][1] for one in found if killed] == [5, 5, 5] * killed


def test_instrumented_libraries_see_no_request() -> None:
    """My producer's HTTP library is instrumented: what sends metrics makes no spans of its own."""
    inside: list[str] = []

    @contextmanager
    def around() -> Generator[None]:
        inside.append(f"{len(there.requests)} sent")
        yield
        inside.append(f"{len(there.requests)} sent")

    metrics = of_relay()
    metrics.take(snapshot(1))
    with backend() as there:
        sender = start_metrics(metrics.collect, exporter(there), around=around)
        assert sender is not None
        sender.stop(PATIENCE)
    assert inside == ["0 sent", "1 sent"]


def test_metrics_that_cannot_be_read_leave_the_ones_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody else writes to my relay: it logs that, and exports what it knows."""
    metrics = of_relay()
    metrics.take(snapshot(1))
    before = metrics.collect()
    for payload in (b"\xc1", frames.pack(3), frames.pack([1, RESOURCE, "", [b"x"]])):
        metrics.take(payload)
        assert metrics.collect().families == before.families
    assert len(caplog.records) == 3


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_backend_that_has_no_metrics_is_no_reason_for_a_warning(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Jaeger has no metrics: one line says so and what to set, and it is not asked again."""
    with backend(Reply(status, body=b"404 page not found")) as there:
        with (
            caplog.at_level(logging.INFO, "taskobs"),
            sending(there, of_relay()) as sender,
        ):
            sender.send()
            sender.send()
        assert len(there.requests) == 1
    [line] = [one for one in caplog.records if one.name == "taskobs.relay"]
    assert line.levelno == logging.INFO
    assert f"HTTP {status}" in line.getMessage()
    assert "OTEL_METRICS_EXPORTER=none" in line.getMessage()


@pytest.mark.parametrize("named", [False, True])
def test_a_backend_that_refuses_metrics_is_left_alone(
    named: bool,  # noqa: FBT001  # pytest gives it
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """My key is wrong, or the endpoint that I chose for metrics: one warning says so."""
    status = 404 if named else 401
    with backend(Reply(status)) as there:
        if named:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"http://{there.address}/x")
            where = exporter(there, endpoint=None)
        else:
            where = exporter(there)
        sender = start_metrics(of_relay().collect, where)
        assert isinstance(sender, MetricsSender)
        with caplog.at_level(logging.INFO, "taskobs"):
            sender.send()
            sender.send()
            sender.stop(PATIENCE)
        assert len(there.requests) == 1
    [line] = [one for one in caplog.records if one.name == "taskobs.relay"]
    assert line.levelno == logging.WARNING
    assert f"HTTP {status}" in line.getMessage()


def test_nothing_is_sent_before_a_process_has_said_whose_it_is() -> None:
    """Metrics without a service would be nobody's."""
    with backend() as there:
        sender = start_metrics(WorkerMetrics(Counters(), NOTHING).collect, exporter(there))
        assert sender is not None
        sender.stop(PATIENCE)
        assert not there.requests


@pytest.mark.parametrize(
    ("variable", "default"),
    [("20", 3600.0), *((ignored, 0.02) for ignored in ("", "0", "-1", "nan", "inf", "soon"))],
)
def test_how_often_metrics_are_sent(
    variable: str, default: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable counts in milliseconds; what is no time leaves it at the default."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", variable)
    monkeypatch.setattr(metrics_exporter, "INTERVAL", default)
    with backend() as there, sending(there, of_relay()):
        there.wait(2)


@pytest.mark.parametrize(
    ("variables", "given", "where"),
    [
        ({}, {}, None),
        ({"OTEL_METRICS_EXPORTER": "none"}, {"endpoint": "http://x/v1/traces"}, None),
        ({"OTEL_SDK_DISABLED": "true"}, {"endpoint": "http://x/v1/traces"}, None),
        ({}, {"endpoint": "http://x/v1/traces"}, "http://x/v1/metrics"),
        ({}, {"endpoint": "http://x/other"}, None),
        ({}, {"endpoint": "http://x:4317", "protocol": "grpc"}, "http://x:4317"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, {}, ""),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x/m"}, {"endpoint": None}, ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x/t"}, {}, None),
    ],
)
def test_where_metrics_go(
    variables: dict[str, str],
    given: dict[str, Any],
    where: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the spans go, if that says where metrics go; nowhere if I say so."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = metrics_exporter._metrics_exporter({"protocol": "http/protobuf"} | given)  # pyright: ignore[reportPrivateUsage]  # a look inside
    assert (found and (found.get("endpoint") or "")) == where


@pytest.mark.parametrize("preference", ["cumulative", "delta"])
@pytest.mark.parametrize("days", [-3, 3])
def test_a_clock_that_is_set_turns_no_metric_around(
    monkeypatch: pytest.MonkeyPatch, days: int, preference: str
) -> None:
    """The time server sets my clock by days: counts begin before they end, and not days before."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)
    wall, ahead = time.time_ns, 0
    monkeypatch.setattr("time.time_ns", lambda: wall() + ahead)
    metrics, table = of_relay(), WorkerTable()
    with backend() as there:
        with sending(there, metrics) as sender:
            metrics.take(snapshot(1, since=table.since))
            sender.send()
            ahead = days * DAY_NS
            metrics.take(snapshot(2, since=table.since))
        requests = list(there.requests)
    assert len(requests) == 2
    for request in requests:
        for begun, taken in periods(request.body):
            assert 0 <= taken - begun < DAY_NS
    before, after = (max(taken for _, taken in periods(one.body)) for one in requests)
    assert abs(after - before - ahead) < DAY_NS


def test_counts_begin_at_one_time_as_long_as_nobody_sets_the_clock() -> None:
    """A backend that sees another start takes a counter as begun anew: it is always the same."""
    counters = Counters()
    assert len({counters.since for _ in range(100)}) == 1
    assert abs(counters.since - time.time()) < 60
