"""What the relay does with a span that has ended: stores it, or holds it until its run ends."""

from __future__ import annotations

import os

import pytest

from taskobs import semconv
from taskobs.model import Outcome
from taskobs.protocol import frames
from taskobs.protocol.held_spans import runs
from taskobs.protocol.held_spans.marks import Mark, with_mark
from taskobs.protocol.held_spans.rules import KeepRules
from taskobs.protocol.span_encoder import NAME, split
from taskobs.relay.agent.connection import settle
from taskobs.relay.counters import DISCARDED, DROPPED, Counters
from taskobs.relay.tracking import lost_spans
from taskobs.relay.tracking.acknowledgements import Source
from taskobs.relay.tracking.ended_spans import HELD, NO_ROOM, EndedSpans
from taskobs.relay.tracking.open_spans import OpenSpanRegistry
from taskobs.relay.tracking.process_state import ProcessState

CHILD, RUN = 11, 99


class Frames(Source):
    """Numbers its frames."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def _number(self) -> int:
        self.number += 1
        return self.number


class Relay:
    """The relay's registry of open spans, and what becomes of those that end."""

    def __init__(self, keep: KeepRules, role: str = "pool child") -> None:
        self.now, self.dead = 100.0, set[int]()
        self.counters, self.frames = Counters(), Frames()
        self.open_spans = OpenSpanRegistry(
            self.counters,
            parent=os.getpid(),
            clock=lambda: self.now,
            alive=lambda pid, _: pid not in self.dead,
        )
        log = self.open_spans.change_log
        self.ended_spans = EndedSpans(self.route, log, self.counters, keep)
        self.child = self.joined(CHILD, role)
        self.main = self.joined(os.getpid(), "worker")

    def joined(self, pid: int, role: str) -> ProcessState:
        process = self.open_spans.joined(b"client %9d" % pid, pid, b"the resource")
        process.role = role
        return process

    def route(self, *_: object) -> None:
        raise AssertionError("a span of our own provider has no route")

    def ends(self, payload: bytes, process: ProcessState | None = None) -> None:
        """Have a process end a span."""
        key, packed = split(payload)
        assert self.open_spans.ended(key, noted=False)
        self.ended_spans.put(process or self.child, key, packed, self.frames)

    def dies(self) -> None:
        self.dead.add(CHILD)
        self.open_spans.left(self.child)

    def lost(self, after: float) -> None:
        """Close what is lost so many seconds later."""
        self.now += after
        self.ended_spans.put_lost(self.open_spans.lost())

    def stored(self) -> list[str]:
        """Take the names of what is to be exported."""
        rows = [frames.unpack(item.payload) for item in self.ended_spans.take()]
        return [str(row[NAME]) for row in rows]

    def settle(self) -> int:
        """Settle what needs no storing; return how many frames are not settled then."""
        settle(self.ended_spans.take_settled())
        return len(self.frames._unsettled)  # pyright: ignore[reportPrivateUsage]

    def counted(self, name: str) -> dict[tuple[str, str], int]:
        return self.counters.counts()[name]


def span(number: int, name: str, outcome: Outcome | None = None, run: int = RUN) -> bytes:
    """A span inside a run, or, with its number, the run itself."""
    ids = [one.to_bytes(8, "big") for one in (number, run)]
    attributes = {} if outcome is None else {semconv.CELERY_OUTCOME: outcome.value}
    row: list[object] = [name, b"t" * 16, ids[0], None, False, 0, "", lost_spans.CONSUMER]
    row += [10**9, None if outcome is None else 2 * 10**9, attributes, (), (), 0, None, None]
    payload = b"t" * 16 + ids[0] + frames.pack([*row, 0, 0, 0])
    return with_mark(payload, Mark(number == run, ids[1]))


KEEP = KeepRules(failed=True)


def test_a_run_that_ends_well_leaves_nothing() -> None:
    """My run is not sampled and succeeds: nothing is exported, and nothing counts as a loss."""
    relay = Relay(KEEP)
    relay.ends(span(1, "query"))
    assert relay.settle() == 1  # the next relay reads it again, should this one be killed
    relay.ends(span(RUN, "run x", Outcome.SUCCEEDED))
    assert (relay.stored(), relay.settle()) == ([], 0)
    assert relay.counted(DISCARDED) == {("span", ""): 2}
    assert relay.counted(DROPPED) == {}
    assert relay.counters.losses() == ""


def test_a_run_that_fails_is_exported() -> None:
    """It fails: all of it is stored, and settled once that is safe."""
    relay = Relay(KEEP)
    relay.ends(span(1, "query"))
    relay.ends(span(RUN, "run x", Outcome.FAILED))
    assert (relay.stored(), relay.settle()) == (["query", "run x"], 2)
    assert relay.counted(DISCARDED) == {}


def test_the_next_relay_leaves_out_what_was_decided() -> None:
    """A relay with a spool notes a span as ended once it is decided, and not before."""
    relay = Relay(KEEP)
    log = relay.open_spans.change_log
    for payload in (query := span(1, "query"), end := span(RUN, "run x", Outcome.FAILED)):
        assert log.take().ended == []
        relay.ends(payload)
    assert log.take().ended == [split(query)[0], split(end)[0]]


def test_an_inline_worker_has_no_unsettled_frames() -> None:
    """One run of a thread pool is open for hours: what others send is not sent again for it."""
    relay = Relay(KEEP, role="worker")
    relay.ends(span(1, "query"))
    assert relay.settle() == 0
    relay.ends(span(RUN, "run x", Outcome.FAILED))
    assert (relay.stored(), relay.settle()) == (["query", "run x"], 1)


@pytest.mark.parametrize("reported", [True, False])
@pytest.mark.parametrize("keep", [KeepRules(failed=True), KeepRules(lost=True)])
def test_a_killed_run_is_whole(keep: KeepRules, *, reported: bool) -> None:
    """My child is killed: what had ended, what was open and the run are there, whoever says so."""
    relay = Relay(keep)
    for payload in (span(RUN, "run x"), span(2, "step")):
        assert relay.open_spans.started(relay.child, *split(payload))
    relay.ends(span(1, "query"))
    relay.dies()
    relay.lost(after=2.0)
    assert relay.stored() == []
    if reported:
        relay.ends(span(RUN, "run x", Outcome.LOST), relay.main)
    relay.lost(after=30.0)
    assert relay.stored() == ["query", "step", "run x"]


def test_what_is_read_after_the_report_is_whole_too() -> None:
    """The main process reports a killed run before the relay reads what the child wrote."""
    relay = Relay(KEEP)
    relay.open_spans.started(relay.child, *split(span(2, "step")))
    relay.ends(span(RUN, "run x", Outcome.LOST), relay.main)
    relay.ends(span(1, "query"))
    relay.dies()
    relay.lost(after=2.0)
    assert relay.stored() == ["run x", "query", "step"]


def test_a_killed_run_that_is_not_kept_is_discarded() -> None:
    relay = Relay(KeepRules(retried=True))
    relay.open_spans.started(relay.child, *split(span(RUN, "run x")))
    relay.open_spans.started(relay.child, *split(span(2, "step")))
    relay.dies()
    relay.lost(after=30.0)
    assert (relay.stored(), relay.settle()) == ([], 0)


def test_a_run_without_an_end_is_forgotten() -> None:
    """The ring had no room for a run's end: what is held for it is discarded."""
    relay = Relay(KEEP)
    relay.ends(span(1, "query"))
    relay.ended_spans.forget(split(span(RUN, "run x"))[0])
    assert (relay.stored(), relay.settle()) == ([], 0)
    assert relay.counted(DISCARDED) == {("span", ""): 1}


def test_what_has_no_room_is_counted_and_is_no_lost_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """More runs are open than there is room for: `taskobs status` and the log say how many."""
    monkeypatch.setattr(runs, "RUNS", 10)
    relay = Relay(KEEP)
    for run in range(15):
        relay.ends(span(1_000 + run, "query", run=run + 1))
    assert relay.settle() == 10
    assert relay.counted(DROPPED) == {(HELD, NO_ROOM): 5}
    assert relay.counters.snapshot()["held"] == {"span": 10}
    assert relay.counters.losses() == f"5 held spans: {NO_ROOM}"


def test_malformed_held_spans_are_counted() -> None:
    """A faulty process can't stop the relay."""
    relay = Relay(KEEP)
    broken = bytearray(span(1, "query"))
    broken[30:40] = b"\xff" * 10
    relay.ends(bytes(broken))
    relay.ends(span(RUN, "run x", Outcome.FAILED))
    assert (relay.stored(), relay.settle()) == (["run x"], 1)
    assert relay.counted(DROPPED) == {("span", "malformed"): 1}
