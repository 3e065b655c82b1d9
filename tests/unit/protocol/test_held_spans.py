"""Spans of runs that are not sampled: how they are marked, held within bounds, and decided on."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from taskobs import semconv
from taskobs.model import Outcome
from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError
from taskobs.protocol.held_spans import runs
from taskobs.protocol.held_spans.marks import Mark, mark_of, sampled, with_mark
from taskobs.protocol.held_spans.rules import KeepRules
from taskobs.protocol.held_spans.runs import Decided, HeldRuns, HeldSpan
from taskobs.protocol.span_decoder import SpanDecoder
from taskobs.protocol.span_encoder import FIELDS, TRACE_FLAGS, split
from taskobs.protocol.span_routes import route_of, with_route

FAILED, LOST = KeepRules(failed=True), KeepRules(lost=True)
SECOND = 1_000_000_000
BLOB = frames.pack([{"service.name": "shop"}, ""])


def ids(number: int) -> bytes:
    return number.to_bytes(8, "big")


def key(number: int) -> bytes:
    return b"t" * 16 + ids(number)


def payload(number: int, name: str = "inner", seconds: float = 1.0, **attributes: object) -> bytes:
    row: list[object] = [name, b"t" * 16, ids(number), None, False, 2, "", 4, SECOND]
    row += [SECOND + int(seconds * SECOND), attributes, (), (), 0, None, None, 0, 0, 0]
    return key(number) + frames.pack(row)


def held(number: int, run: int, text: str = "") -> HeldSpan:
    """A span inside a run."""
    return HeldSpan(
        *split(with_mark(payload(number, text=text), Mark(is_run=False, run=ids(run)))), BLOB
    )


def run_span(
    number: int, outcome: Outcome | None = None, within: int | None = None, **more: Any
) -> HeldSpan:
    """A run that has ended: by itself, or ``within`` another one."""
    attributes: dict[str, Any] = {semconv.CELERY_OUTCOME: outcome.value} if outcome else {}
    seconds = more.pop("seconds", 1.0)
    one = payload(number, "run x", seconds, **attributes, **more)
    return HeldSpan(*split(with_mark(one, Mark(is_run=True, run=ids(within or number)))), BLOB)


class Held:
    """Held runs, and what they had no room for."""

    def __init__(self, rules: KeepRules = FAILED) -> None:
        self.no_room: list[HeldSpan] = []
        self.runs = HeldRuns(rules, self.no_room.extend)


# The mark.


@pytest.mark.parametrize("mark", [Mark(is_run=True, run=ids(1)), Mark(is_run=False, run=ids(2))])
def test_a_mark_is_read_from_the_packed_span(mark: Mark) -> None:
    """The relay finds the run of a span without unpacking it, and takes no other for one."""
    plain = payload(1)
    key_of_it, packed = split(with_mark(plain, mark))
    assert (key_of_it, mark_of(packed)) == (key(1), mark)
    assert route_of(packed) == b""
    assert frames.unpack(packed) == [*frames.unpack(split(plain)[1]), *mark]
    assert mark_of(split(plain)[1]) is None
    assert mark_of(split(with_route(plain, b"\xc3" * 8))[1]) is None


def test_a_kept_span_is_exported_as_sampled() -> None:
    """What is kept reads as any span: exporters and backends leave out what is not sampled."""
    _, packed = split(with_mark(payload(1, "query"), Mark(is_run=False, run=ids(2))))
    assert len(frames.unpack(packed)) == FIELDS + 2
    row = frames.unpack(sampled(packed))
    assert (len(row), row[TRACE_FLAGS]) == (FIELDS, 3)
    span = SpanDecoder().span(sampled(packed), BLOB)
    assert span.name == "query"
    assert span.context is not None
    assert span.context.trace_flags.sampled


# The decision.


@pytest.mark.parametrize(
    ("rules", "outcome", "more", "kept"),
    [
        (FAILED, Outcome.FAILED, {}, True),
        (FAILED, Outcome.FAILED, {semconv.CELERY_EXPECTED: True}, False),
        (FAILED, Outcome.LOST, {}, True),
        (FAILED, Outcome.UNKNOWN, {}, True),
        (FAILED, Outcome.SUCCEEDED, {}, False),
        (FAILED, Outcome.SUCCEEDED, {semconv.SENTRY_EVENT_ID: "of a hook"}, True),
        (FAILED, Outcome.RETRIED, {}, False),
        (FAILED, Outcome.REVOKED, {}, False),
        (FAILED, None, {}, False),
        (LOST, Outcome.LOST, {}, True),
        (LOST, Outcome.FAILED, {}, False),
        (KeepRules(retried=True), Outcome.RETRIED, {}, True),
        (KeepRules(retried=True), Outcome.FAILED, {}, False),
        (KeepRules(slower=5.0), Outcome.SUCCEEDED, {"seconds": 5.1}, True),
        (KeepRules(slower=5.0), Outcome.SUCCEEDED, {"seconds": 5.0}, False),
    ],
)
def test_a_run_is_kept_by_its_end(
    rules: KeepRules, outcome: Outcome, more: dict[str, Any], *, kept: bool
) -> None:
    """I name what matters, and a run that turns out so is kept with all that is inside it."""
    one = Held(rules)
    inner = [held(2, 1), held(3, 1)]
    for span in inner:
        assert one.runs.ended(span) == ([], [])
    end = run_span(1, outcome, **more)
    decided, every = one.runs.ended(end), [*inner, end]
    assert decided == (Decided(every, []) if kept else Decided([], every))
    assert (len(one.runs), one.runs.spans, one.runs.size, one.no_room) == (0, 0, 0, [])


def test_runs_of_one_trace_are_decided_by_themselves() -> None:
    """Two tasks of a group run beside each other: the failure of one keeps nothing of the other."""
    one = Held()
    first, second = held(3, 1), held(4, 2)
    one.runs.ended(first)
    one.runs.ended(second)
    good, bad = run_span(1, Outcome.SUCCEEDED), run_span(2, Outcome.FAILED)
    assert one.runs.ended(bad) == ([second, bad], [])
    assert one.runs.ended(good) == ([], [first, good])


@pytest.mark.parametrize(("outcome", "at"), [(Outcome.FAILED, 0), (Outcome.SUCCEEDED, 1)])
def test_what_ends_after_its_run_goes_the_same_way(outcome: Outcome, at: int) -> None:
    """A thread of my run ends a span later, or a killed child's is read later."""
    one = Held()
    one.runs.ended(run_span(1, outcome))
    span = held(2, 1)
    assert one.runs.ended(span)[at] == [span]


def test_a_failed_run_inside_another_keeps_both() -> None:
    """My task runs another one eagerly, which fails, and handles that: I see where that was."""
    one = Held()
    before, after = held(3, 1), held(4, 1)
    one.runs.ended(before)
    inner = run_span(2, Outcome.FAILED, within=1)
    assert one.runs.ended(inner) == ([before, inner], [])
    assert one.runs.ended(after) == ([after], [])
    outer = run_span(1, Outcome.SUCCEEDED)
    assert one.runs.ended(outer) == ([outer], [])


def test_a_forgotten_run_is_discarded() -> None:
    """The end of a run had no room on its way: what is held for it does not stay."""
    one = Held()
    inner = held(2, 1)
    one.runs.ended(inner)
    assert one.runs.forget(key(9)) == []
    assert one.runs.forget(key(1)) == [inner]
    assert (len(one.runs), one.runs.size) == (0, 0)


def test_malformed_spans_are_refused() -> None:
    one = Held()
    with pytest.raises(FrameError):
        one.runs.ended(HeldSpan(key(1), split(payload(1))[1], BLOB))
    wrong = frames.pack([0] * FIELDS + [True, ids(1)])
    with pytest.raises(FrameError):
        one.runs.ended(HeldSpan(key(1), wrong, BLOB))
    assert (len(one.runs), one.runs.size) == (0, 0)


# The bounds.


def test_ten_thousand_open_runs_take_bounded_memory() -> None:
    """Ten thousand runs are open and none is sampled: the oldest give way, and are counted."""
    one = Held()
    number, text = runs.RUNS, "x" * 600
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for run in range(number):
            one.runs.ended(held(number + run, run, text))
        one_size, spans, no_room = one.runs.size, one.runs.spans, len(one.no_room)
        newest = one.runs.ended(run_span(number - 1, Outcome.FAILED))
        one.no_room.clear()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(newest.kept) == 2
    assert 1_000 < spans < runs.RUNS
    assert spans + no_room == number
    assert one_size <= runs.BYTES
    assert taken < 1.2 * runs.BYTES


def test_many_small_runs_are_bounded_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "RUNS", 10)
    one = Held()
    for run in range(15):
        one.runs.ended(held(100 + run, run))
    assert len(one.runs) == 10
    assert [span.key for span in one.no_room] == [key(100 + run) for run in range(5)]


@pytest.mark.parametrize("text", ["", "x" * 20_000])
def test_a_run_of_many_spans_keeps_its_last(text: str) -> None:
    """One run makes more spans than are held: I see the last, which led to its failure."""
    one = Held()
    number = runs.RUN_SPANS + 500
    for span in range(1, number + 1):
        one.runs.ended(held(span, number + 1, text))
    kept, _ = one.runs.ended(run_span(number + 1, Outcome.FAILED))
    assert len(kept) - 1 + len(one.no_room) == number
    assert [one.key for one in (*one.no_room, *kept)] == [key(n) for n in range(1, number + 2)]
    assert sum(len(one.packed) for one in kept) <= runs.RUN_BYTES_HELD + 1000
    assert runs.RUN_SPANS // 40 < len(kept) <= runs.RUN_SPANS + 1
    assert one.runs.size == 0


def test_the_runs_that_are_remembered_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "ENDED", 3)
    one = Held()
    for run in range(1, 6):
        one.runs.ended(run_span(run, Outcome.FAILED))
    assert one.runs.ended(held(10, 5)).kept
    assert one.runs.ended(held(11, 1)) == ([], [])  # held as one of a new run
