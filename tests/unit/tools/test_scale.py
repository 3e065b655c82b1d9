"""The arithmetic of docs/scale.md, and what `make scale` counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from taskobs.testing.http_server import METRICS
from tools.scale import paper
from tools.scale.collector import total
from tools.scale.counting import Arrival, count_metrics
from tools.scale.knee import Step, knee, per_thousand
from tools.scale.page import number
from tools.scale.paper import Costs, Load, size
from tools.scale.relays import Template

COSTS: Final = Costs(
    publish_bytes=600,
    run_bytes=1000,
    inside_bytes=100,
    gzip=0.1,
    event_bytes=2000,
    message_bytes=200,
    fixed_series=50,
    name_series=30,
    few_series=10,
    fixed_bytes=4000,
    name_bytes=400,
    relay_cpu=0.04,
    plain_cpu=0.012,
    tail_cpu=0.018,
    held_bytes=2000,
)
LOAD: Final = Load("ten workers", workers=10, rate=100, failing=0.01, names=5)
STEP: Final = Step(
    due=1000,
    accepted=1000,
    refused=0,
    median=0.01,
    high=0.1,
    cpu=0.01,
    busy=0.01,
    memory=100,
    queued=0,
    held=0,
)


def test_a_task_is_its_publish_its_run_and_what_is_inside() -> None:
    """I have 1,000 tasks a second with four spans inside each, and all of them are sent."""
    found = size(LOAD, COSTS)
    assert (found.tasks, found.worker_spans, found.spans) == (1000, 500, 6000)
    assert found.span_bytes == 1000 * (600 + 1000 + 4 * 100)
    assert found.broker_bytes == 1000 * 200
    assert (found.events, found.event_bytes) == (10, 20_000)
    assert found.series == 10 * (50 + 5 * 30)
    assert found.metric_bytes == pytest.approx(10 * (4000 + 5 * 400) / 60)
    assert found.stored_bytes == found.span_bytes * 86_400
    assert (found.second_tier, found.held_bytes, found.held_traces) == (0, 0, 0)


def test_a_share_of_traces_and_failed_runs() -> None:
    """I sample a tenth and keep what failed: a kept run comes without its publish."""
    found = size(replace(LOAD, sampled=0.1, keep=True, gzip=True, events=0.1), COSTS)
    assert found.spans == pytest.approx(1000 * (0.1 * 6 + 0.9 * 0.01 * 5))
    assert found.worker_spans == pytest.approx(100 * (0.1 + 0.9 * 0.01) * 5)
    plain = 1000 * (0.1 * 600 + (0.1 + 0.9 * 0.01) * 1400)
    assert found.span_bytes == pytest.approx(plain * 0.1)
    assert found.events == pytest.approx(1)


def test_tail_sampling_holds_all_and_keeps_some() -> None:
    """I have tail sampling: it holds each span for its wait, and stores errors and a tenth."""
    found = size(replace(LOAD, tail=0.1, decision_wait=30), COSTS)
    assert found.held_traces == 30_000
    assert found.held_bytes == 6000 * 30 * 2000
    assert found.stored_spans == pytest.approx(6000 * (0.01 + 0.99 * 0.1))
    assert found.second_tier == pytest.approx(6 * 0.018 / 0.6)
    assert found.first_tier == pytest.approx(6 * 0.012 / 0.6)


def test_few_buckets_are_fewer_series() -> None:
    """I set three buckets, and the series of each name are those that were measured so."""
    assert size(replace(LOAD, few_buckets=True), COSTS).series == 10 * (50 + 5 * 10)


@pytest.mark.parametrize(
    ("spans", "found"), [(0, 0), (0.5, 0.5), (10, 1), (256, 1), (2560, 10)], ids=str
)
def test_a_relay_sends_once_a_second_or_full_batches(spans: float, found: float) -> None:
    """I count requests: one a second from a slow worker, full ones from a busy one."""
    assert paper.requests(spans) == found


def test_the_time_for_a_response_is_what_encoding_leaves() -> None:
    """I have 2,560 spans a second: ten batches, each of which has to be encoded, too."""
    assert paper.response_time(2560, 0.04) == pytest.approx(0.1 - 0.01024)
    assert paper.response_time(100_000, 0.04) == 0
    assert paper.ceiling(paper.response_time(2560, 0.04), 0.04) == pytest.approx(2560)


def test_what_each_name_adds_is_told_from_what_is_there_anyway() -> None:
    """I measure one name and twenty, and get what none has and what each adds."""
    assert paper.per_name(110, 680, 20) == (80, 30)


def test_the_knee_is_the_highest_rate_that_was_sustained() -> None:
    """I read the knee, and one moment in which the machine was busy is not it."""
    busy = replace(STEP, due=2000, accepted=1000)
    steps = [STEP, busy, replace(STEP, due=3000, accepted=2990, cpu=0.03)]
    assert knee([*steps, replace(STEP, due=4000, accepted=4000, refused=1)]).due == 3000
    assert knee([busy]) is busy
    assert per_thousand(steps) == 0.01


def test_each_request_has_traces_of_its_own() -> None:
    """I send a request again, and all of its traces are new ones, with the same spans."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for trace_id in (b"a" * 16, b"a" * 16, b"b" * 16):
        spans.add(trace_id=trace_id, span_id=b"12345678", name="run").links.add(trace_id=trace_id)
    template = Template(request.SerializeToString())
    sent = ExportTraceServiceRequest.FromString(template.renewed())
    first, second, third = sent.resource_spans[0].scope_spans[0].spans
    assert (template.spans, template.traces) == (3, 2)
    assert first.trace_id == second.trace_id == second.links[0].trace_id
    assert len({first.trace_id, third.trace_id, b"a" * 16, b"b" * 16}) == 4


def test_a_histogram_is_a_series_for_each_bucket() -> None:
    """I count series as Prometheus does, each once however often it was exported."""
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    metrics.add(name="tasks").sum.data_points.add(as_int=1)
    point = metrics.add(name="seconds").histogram.data_points.add(explicit_bounds=[0.1, 1, 10])
    point.bucket_counts.extend([1, 0, 0, 0])
    body = request.SerializeToString()
    found = count_metrics([Arrival(METRICS, 300, body), Arrival(METRICS, 310, body)])
    assert (found.points, found.series, found.bytes) == (2, 1 + 4 + 2, 310)


def test_metrics_of_the_collector_are_added_up() -> None:
    """I read a figure of the Collector's own, whichever suffix its release gives it."""
    text = 'otelcol_held{a="1"} 3\notelcol_held{a="2"} 4\notelcol_held_other 9\n'
    assert total(text, "otelcol_held") == 7
    assert total('otelcol_sent_total{a="1"} 5', "otelcol_sent") == 5


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "-"), (0.0123, "0.012"), (1.26, "1.3"), (99.6, "100"), (5_990_000, "6,000,000")],
    ids=str,
)
def test_numbers_on_paper_have_two_digits(value: float, text: str) -> None:
    """I read a number of the paper, and it promises no more than it knows."""
    assert number(value) == text
