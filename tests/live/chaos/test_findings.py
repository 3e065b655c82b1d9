"""The judge of a chaos run sees what is missing, doubled, wrong, and counted or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from taskobs import semconv
from taskobs.testing.wire import ReceivedEvent, ReceivedSpan
from tests.live.chaos.findings import DROPPED, Arrived, Finding, Kills
from tests.live.chaos.losses import Losses, logged
from tests.live.chaos.task_log import TaskLog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TRACE = "a" * 32
PUBLISH, RUN, STEP, CAPTURE = "1" * 16, "2" * 16, "3" * 16, "4" * 16
EVENT = "e" * 32
LOG = "Task chaos.short[t1] received"
LINES = [
    f"publish 7 1.0 {TRACE} {PUBLISH}",
    f"run 8 2.0 {TRACE} {RUN} t1 short {PUBLISH}",
    f"start 8 2.1 {TRACE} {STEP} 3",
    f"ending 8 2.2 {TRACE} {STEP}",
    f"end 8 2.3 {TRACE} {STEP}",
    f"start 8 2.4 {TRACE} {CAPTURE} 0",
    f"capturing 8 2.5 {TRACE} {CAPTURE} 10",
    f"captured 8 2.6 {TRACE} {CAPTURE} {EVENT}",
    f"ending 8 2.7 {TRACE} {CAPTURE}",
    f"end 8 2.8 {TRACE} {CAPTURE}",
    f"done 8 2.9 {TRACE} {RUN}",
]


def span(span_id: str, name: str = "step", **attributes: object) -> ReceivedSpan:
    return ReceivedSpan(
        trace_id=TRACE, span_id=span_id, name=name, start_ns=1, end_ns=2, attributes=attributes
    )


SPANS = [
    span(PUBLISH, "publish short"),
    span(RUN, "run short", **{semconv.MESSAGING_MESSAGE_ID: "t1"}),
    span(STEP, payload="xyz"),
    span(CAPTURE),
]
EVENTS = [
    ReceivedEvent(
        event_id=EVENT, data={"contexts": {"trace": {"trace_id": TRACE, "span_id": CAPTURE}}}
    )
]


@pytest.fixture
def task_log(tmp_path: Path) -> TaskLog:
    """One run that succeeded, with a long span and an event inside."""
    file = tmp_path / "task_log"
    file.write_text("\n".join(LINES) + "\n")
    return TaskLog.read(file)


def judged(
    task_log: TaskLog,
    spans: Sequence[ReceivedSpan] = SPANS,
    events: Sequence[ReceivedEvent] = EVENTS,
    *,
    attachments: Sequence[int] = (10,),
    counted: Mapping[str, int] | None = None,
) -> Finding:
    arrived = Arrived(spans, events, attachments)
    return Finding(task_log, arrived, LOG, Kills(), counted or {})


def bad(finding: Finding) -> set[str]:
    return {name for name, row in finding.rows.items() if not row.good}


def test_what_arrived_once_is_good(task_log: TaskLog) -> None:
    """Everything arrived: nothing is complained about."""
    assert bad(judged(task_log)) == set()


@pytest.mark.parametrize(
    ("lost", "rows"),
    [
        (STEP, {"spans that had ended"}),
        (PUBLISH, {"spans of publishes", "what runs hang on"}),
        (RUN, {"runs", "deliveries with one run span each"}),
    ],
)
def test_a_span_that_nobody_counted_is_missing(
    task_log: TaskLog, lost: str, rows: set[str]
) -> None:
    """A span didn't arrive, and no relay counted it: I am told."""
    finding = judged(task_log, [one for one in SPANS if one.span_id != lost])
    assert bad(finding) == {*rows, DROPPED}


@pytest.mark.parametrize("lost", [STEP, PUBLISH, RUN])
def test_a_span_that_was_counted_as_dropped_is_good(task_log: TaskLog, lost: str) -> None:
    """It didn't arrive, and one span was counted as dropped: that is what was promised."""
    spans = [one for one in SPANS if one.span_id != lost]
    assert bad(judged(task_log, spans, counted={"span": 1})) == set()
    assert DROPPED in bad(judged(task_log, spans, counted={"span": 2}))
    assert DROPPED in bad(judged(task_log, spans, counted={"envelope": 1}))


def test_a_count_of_what_arrived_is_wrong(task_log: TaskLog) -> None:
    """Everything arrived, and a relay says that it dropped something: I am told."""
    assert bad(judged(task_log, counted={"span": 1})) == {DROPPED}
    assert bad(judged(task_log, counted={"frame": 1})) == {DROPPED}


def test_an_event_is_missing_or_counted(task_log: TaskLog) -> None:
    """The same for events."""
    assert bad(judged(task_log, events=[], attachments=[])) == {"events with attachments", DROPPED}
    assert not bad(judged(task_log, events=[], attachments=[], counted={"envelope": 1}))


def test_an_event_without_its_attachment_is_wrong(task_log: TaskLog) -> None:
    """An event arrived, its attachment did not: nothing forgives that."""
    assert bad(judged(task_log, attachments=[])) == {"events with attachments"}


def test_nothing_forgives_what_comes_twice(task_log: TaskLog) -> None:
    """A span or an event that arrived twice is bad, whatever was counted."""
    assert "runs" in bad(judged(task_log, [*SPANS, SPANS[1]]))
    assert "events with attachments" in bad(judged(task_log, events=[*EVENTS, *EVENTS]))


def test_a_span_that_was_cut_is_wrong(task_log: TaskLog) -> None:
    """A long span arrived without its attribute: I am told."""
    spans = [one if one.span_id != STEP else span(STEP) for one in SPANS]
    assert bad(judged(task_log, spans)) == {"spans that had ended"}


def test_losses_are_those_of_all_relays() -> None:
    """One relay was killed after its status was read; the next sent metrics: both are counted."""
    losses = Losses()
    losses.note_status({"since": 5.0, "dropped": {"span": {"full": 2}, "connection": {"gone": 1}}})
    losses.note_metrics([metrics(since=7, full=1), metrics(since=7, full=4)])
    assert losses.by_kind == {"span": 6}
    assert losses.by_reason == {("span", "full"): 6}


def metrics(*, since: int, full: int) -> bytes:
    request = ExportMetricsServiceRequest()
    metric = (
        request.resource_metrics.add()
        .scope_metrics.add()
        .metrics.add(name=semconv.METRIC_RELAY_DROPPED)
    )
    point = metric.sum.data_points.add(start_time_unix_nano=since, as_int=full)
    for key, value in ((semconv.RELAY_KIND, "span"), (semconv.RELAY_REASON, "full")):
        point.attributes.add(key=key).value.string_value = value
    return bytes(request.SerializeToString())


def test_the_last_lines_of_relays_are_read() -> None:
    """What relays log at their end is added up."""
    line = "taskobs relay: ending; dropped in all: 3 spans: full (x); 1 envelope: old"
    assert logged(f"[INFO] {line}\n[INFO] {line}") == {"span": 6, "envelope": 2}
