"""What the relay counts, and the runs of its worker, as metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from taskobs.protocol import frames
from taskobs.relay.counters import Counters
from taskobs.relay.metrics import exporter as metrics_exporter
from taskobs.relay.metrics import run_statistics
from taskobs.relay.metrics.exporter import MetricsSender, start_metrics
from taskobs.relay.metrics.run_statistics import Labels, RunStatistics
from tests.support.export import PATIENCE, RESOURCE_BLOB, Backend, Reply, backend, exporter


def run_metric(
    task: object = "shop.pay", outcome: object = "succeeded", seconds: object = 0.2
) -> bytes:
    return frames.pack([task, outcome, "celery", seconds])


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
def sending(there: Backend, counters: Counters, runs: RunStatistics) -> Generator[MetricsSender]:
    """Have a sender of metrics for the length of a block; it sends once more at its end."""
    sender = start_metrics(counters, runs, exporter(there), lambda: RESOURCE_BLOB)
    assert isinstance(sender, MetricsSender)
    try:
        yield sender
    finally:
        sender.stop(PATIENCE)


def test_counts_figures_and_runs_arrive_at_the_end() -> None:
    """A worker that ran for a second still has its metrics in the backend, under its name."""
    counters, runs = Counters(), RunStatistics()
    counters.add("exported", "span", 3)
    counters.dropped("span", 2, "overflow")
    counters.gauge("pending", lambda: 5, "span")
    counters.gauge("of no name", lambda: 5)
    for _ in range(3):
        runs.take(run_metric())
    runs.take(run_metric(outcome="failed", seconds=40))
    runs.take(run_metric(outcome="expired", seconds=None))
    with backend() as there:
        with sending(there, counters, runs):
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
    by = {
        "celery.task_name": "shop.pay",
        "celery.queue": "celery",
        "messaging.destination.name": "celery",
    }
    expected = [
        (by | {"celery.outcome": "succeeded"}, 3),
        (by | {"celery.outcome": "failed"}, 1),
    ]
    assert found["taskobs.run.duration"] == expected
    assert found["taskobs.runs"] == [*expected, (by | {"celery.outcome": "expired"}, 1)]


def test_counts_add_up_from_one_export_to_the_next() -> None:
    """Cumulative is what backends expect unless told otherwise."""
    runs = RunStatistics()
    with backend() as there:
        with sending(there, Counters(), runs) as sender:
            runs.take(run_metric())
            sender.send()
            runs.take(run_metric())
        values = [points(one.body)["taskobs.runs"][0][1] for one in there.requests]
    assert values == [1, 2]


def test_deltas_where_they_are_asked_for_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """My backend wants deltas: each run is in one of them, also when one export fails."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "DELTA")
    counters, runs = Counters(), RunStatistics()
    with backend(Reply(200), Reply(503)) as there:
        with sending(there, counters, runs) as sender:
            for _ in range(3):
                runs.take(run_metric())
                counters.add("exported", "span", 5)
                sender.send()
            runs.take(run_metric())
        found = [points(one.body) for one in there.requests]
    assert [one["taskobs.runs"][0][1] for one in found] == [1, 1, 2, 1]
    assert [one["taskobs.relay.exported"][0][1] for one in found] == [5, 5, 10, 0]


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_backend_that_has_no_metrics_is_no_reason_for_a_warning(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Jaeger has no metrics: one line says so and what to set, and it is not asked again."""
    with backend(Reply(status, body=b"404 page not found")) as there:
        with (
            caplog.at_level(logging.INFO, "taskobs"),
            sending(there, Counters(), RunStatistics()) as sender,
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
        sender = start_metrics(Counters(), RunStatistics(), where, lambda: RESOURCE_BLOB)
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
        sender = start_metrics(Counters(), RunStatistics(), exporter(there), lambda: None)
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
    with backend() as there, sending(there, Counters(), RunStatistics()):
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


def test_what_is_no_run_metric_is_refused() -> None:
    """A process sends nonsense: it does not become a label."""
    runs = RunStatistics()
    ignored = [
        b"\xc1",
        frames.pack(3),
        frames.pack([1]),
        run_metric(outcome="odd"),
        run_metric(outcome=None),
    ]
    for payload in (
        *ignored,
        run_metric(seconds=-1),
        run_metric(seconds="1"),
        run_metric(seconds=float("nan")),
    ):
        with pytest.raises(ValueError, match=r"run metric|payload"):
            runs.take(payload)
    runs.take(run_metric(task=None))
    assert list(runs.collect()) == [Labels("", "succeeded", "celery")]


def test_labels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that makes up names of tasks does not make a series of each."""
    monkeypatch.setattr(run_statistics, "MAX_SERIES", 3)
    runs = RunStatistics()
    for number in range(10):
        runs.take(run_metric(task=f"task {number}"))
    runs.take(run_metric(task="task 0"))
    found = {labels.task: series.count for labels, series in runs.collect().items()}
    assert found == {"task 0": 2, "task 1": 1, "task 2": 1, "other": 7}


@pytest.mark.parametrize("preference", ["cumulative", "delta"])
@pytest.mark.parametrize("days", [-3, 3])
def test_a_clock_that_is_set_turns_no_metric_around(
    monkeypatch: pytest.MonkeyPatch, days: int, preference: str
) -> None:
    """The time server sets my clock by days: counts begin before they end, and not days before."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)
    wall, ahead = time.time_ns, 0
    monkeypatch.setattr("time.time_ns", lambda: wall() + ahead)
    counters, runs = Counters(), RunStatistics()
    with backend() as there:
        with sending(there, counters, runs) as sender:
            runs.take(run_metric())
            sender.send()
            ahead = days * DAY_NS
            runs.take(run_metric())
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
