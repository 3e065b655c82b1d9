"""Which spans are open where, and when one is lost."""

from __future__ import annotations

import os
import tracemalloc

import pytest

from taskobs import semconv
from taskobs.protocol import frames, span_encoder
from taskobs.protocol.frames import FrameError
from taskobs.relay.counters import DROPPED, DUPLICATE, LOST, Counters
from taskobs.relay.storage.items import Start
from taskobs.relay.tracking import lost_spans, open_spans, process_state
from taskobs.relay.tracking.change_log import ChangeLog
from taskobs.relay.tracking.open_spans import OpenSpanRegistry
from taskobs.relay.tracking.process_state import ProcessState
from taskobs.relay.tracking.recent_keys import RecentKeys

PARENT, CHILD = 10, 11
RESOURCE_BLOB = b"the resource"


class World:
    """A clock, and processes that live until they are told to die."""

    def __init__(self) -> None:
        self.now = 100.0
        self.set_by = 0.0
        self.dead: set[int] = set()
        self.counters = Counters()
        self.open_spans = self.another()

    def another(self, parent: int = PARENT) -> OpenSpanRegistry:
        return OpenSpanRegistry(
            self.counters,
            parent=parent,
            clock=lambda: self.now,
            wall=lambda: int((self.now + self.set_by) * 1e9),
            alive=lambda pid, _: pid not in self.dead,
        )

    def joined(self, pid: int = CHILD) -> ProcessState:
        return self.open_spans.joined(b"client %9d" % pid, pid, RESOURCE_BLOB)

    def died(self, one: ProcessState) -> None:
        self.dead.add(one.pid)
        self.open_spans.left(one)

    def lost(self, after: float = 0.0) -> list[list[object]]:
        """What is lost so many seconds later, unpacked."""
        self.now += after
        return [frames.unpack(one.packed) for one in self.open_spans.lost()]


@pytest.fixture
def world() -> World:
    return World()


def key(number: int) -> bytes:
    return number.to_bytes(span_encoder.KEY_BYTES, "big")


def packed(name: str = "inner", kind: int = 0, start: int = 5, **attributes: object) -> bytes:
    row: list[object] = [name, b"t" * 16, b"s" * 8, None, False, 1, "", kind, start, None]
    row += [attributes, (), (), 0, None, None, 0, 0, 0]
    return frames.pack(row)


RUN = packed("run shop.pay", lost_spans.CONSUMER)


def test_what_a_killed_process_had_open_is_lost(world: World) -> None:
    """My child was killed, and I see where: its spans end at that moment, as errors."""
    child = world.joined()
    world.open_spans.started(child, key(1), packed(a=1))
    world.open_spans.started(child, key(2), packed())
    assert world.open_spans.ended(key(2))
    world.died(child)
    assert world.lost() == []  # what it sent over another connection may still come
    (row,) = world.lost(after=process_state.RECONNECT)
    assert row[span_encoder.END_NS] == 100_000_000_000
    assert row[span_encoder.STATUS] == lost_spans.ERROR
    assert str(CHILD) in str(row[span_encoder.STATUS_DESCRIPTION])
    assert row[span_encoder.ATTRIBUTES] == {
        "a": 1,
        semconv.TASKOBS_LOST: True,
        semconv.ERROR_TYPE: "lost",
    }
    assert world.counters.total(LOST) == 1
    assert world.lost(after=100) == []
    assert (world.open_spans.open, world.open_spans.processes, world.open_spans.waiting) == (
        0,
        0,
        False,
    )


@pytest.mark.parametrize("days", [-3, 3])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_clock_that_is_set_makes_no_long_lost_span(world: World, days: int, when: str) -> None:
    """The time server corrects my clock by days while a task runs, which is killed then."""
    child = world.joined()
    if when == "before":
        world.set_by = days * 86_400.0
        world.lost()
    began = int((world.now + world.set_by) * 1e9)
    world.open_spans.started(child, key(1), packed(start=began))
    world.lost(after=10.0)
    if when == "after":
        world.set_by = days * 86_400.0
        world.lost(after=10.0)
    else:
        world.lost(after=10.0)
    world.died(child)
    (row,) = world.lost(after=1.0)
    end = row[span_encoder.END_NS]
    assert isinstance(end, int)
    assert end - began == pytest.approx(20e9, abs=1e6)


def test_a_run_waits_for_what_the_parent_tells(world: World) -> None:
    """My child hit its hard time limit: the span of the run says so, once, and not 'lost'."""
    child = world.joined()
    world.open_spans.started(child, key(1), RUN)
    world.open_spans.started(child, key(2), packed())
    world.died(child)
    assert [row[span_encoder.NAME] for row in world.lost(after=5)] == ["inner"]
    assert world.open_spans.waiting
    assert world.open_spans.ended(key(1))  # over the parent's connection
    assert world.lost(after=60) == []


def test_a_run_that_nobody_tells_of_is_lost(world: World) -> None:
    """The parent says nothing in time: the run is lost all the same."""
    child = world.joined()
    world.open_spans.started(child, key(1), RUN)
    world.died(child)
    assert world.lost(after=open_spans.OUTCOME_WITHIN - 0.1) == []
    (row,) = world.lost(after=0.1)
    attributes = row[span_encoder.ATTRIBUTES]
    assert isinstance(attributes, dict)
    assert attributes[semconv.CELERY_OUTCOME] == "lost"
    assert row[span_encoder.END_NS] == 100_000_000_000  # when it died, not when the wait was over


def test_no_run_is_waited_for_once_the_parent_has_gone(world: World) -> None:
    """The whole worker was killed: its runs are lost at once."""
    child = world.joined()
    world.open_spans.started(child, key(1), RUN)
    world.died(child)
    world.open_spans.main_process_ended = True
    assert len(world.lost(after=1)) == 1


def test_an_inline_workers_own_run_is_not_waited_for(world: World) -> None:
    """A worker that runs tasks itself can't tell of them once it was killed."""
    inline = world.joined(PARENT)
    world.open_spans.started(inline, key(1), RUN)
    world.died(inline)
    assert len(world.lost(after=1)) == 1


def test_a_run_whose_outcome_is_known_is_no_open_run() -> None:
    """Only a run that somebody else can tell of is waited for."""
    assert lost_spans.is_open_run(RUN)
    assert not lost_spans.is_open_run(
        packed("run shop.pay", lost_spans.CONSUMER, 5, **{"celery.outcome": "x"})
    )
    assert not lost_spans.is_open_run(packed("run shop.pay", 1))
    assert not lost_spans.is_open_run(packed("another", lost_spans.CONSUMER))
    assert not lost_spans.is_open_run(b"rubbish")


def test_a_process_that_lives_has_lost_nothing(world: World) -> None:
    """The relay cut a connection, or was restarted, while a long task said nothing."""
    child = world.joined()
    world.open_spans.started(child, key(1), packed())
    world.open_spans.left(child)
    assert world.lost(after=3600) == []
    assert world.joined() is child
    assert world.open_spans.ended(key(1))
    assert world.counters.total(LOST) == 0


def test_a_second_connection_keeps_a_process(world: World) -> None:
    """A client reconnects before the relay has seen the end of its first connection."""
    child = world.joined()
    world.joined()
    world.open_spans.started(child, key(1), packed())
    world.open_spans.left(child)
    world.dead.add(CHILD)
    assert world.lost(after=60) == []
    world.open_spans.left(child)
    assert len(world.lost(after=1)) == 1


def test_what_is_open_after_a_close_is_lost_at_once(world: World) -> None:
    """A process ended in order and forgot a span: it is there, marked."""
    child = world.joined()
    world.open_spans.started(child, key(1), packed())
    child.closed_cleanly = True
    world.open_spans.left(child)
    (row,) = world.lost()
    assert str(row[span_encoder.STATUS_DESCRIPTION]).startswith(open_spans.ENDED_OPEN)


def test_a_span_ends_once(world: World) -> None:
    """A client sends again what it isn't sure of: I get it once."""
    child = world.joined()
    assert world.open_spans.ended(key(1))
    assert not world.open_spans.ended(key(1))
    world.open_spans.started(child, key(1), packed())  # of a child that was slower than its parent
    assert world.open_spans.open == 0
    assert world.counters.total(DUPLICATE) == 1


def test_a_span_is_open_in_one_process(world: World) -> None:
    """A second process can't take a span over that another has open."""
    child, other = world.joined(), world.joined(12)
    world.open_spans.started(child, key(1), packed("first"))
    world.open_spans.started(other, key(1), packed("second"))
    assert (len(child.open), len(other.open)) == (1, 0)


@pytest.mark.parametrize(
    ("size", "kept"), [(0, open_spans.OPEN_SPANS), (1024 * 1024, 3), (open_spans.OPEN_BYTES, 0)]
)
def test_open_spans_are_bounded(world: World, size: int, kept: int) -> None:
    """A client opens spans without end: the oldest are forgotten, and that is counted."""
    child = world.joined()
    number = open_spans.OPEN_SPANS + 5 if not size else 5
    for one in range(number):
        world.open_spans.started(child, key(one), b"x" * size)
    assert len(child.open) == world.open_spans.open == kept
    assert key(number - 1) in child.open or not kept
    assert world.counters.counts()[DROPPED] == {("start", open_spans.FORGOTTEN): number - kept}


def test_open_spans_are_bounded_over_all_processes(world: World) -> None:
    """A hundred such clients are no worse: the largest of them loses first."""
    for pid in range(100, 110):
        other = world.joined(pid)
        for one in range(3):
            world.open_spans.started(other, key(pid * 10 + one), b"x" * 1024 * 1024)
    assert 10 < world.open_spans.open < 17


def test_processes_that_have_gone_are_forgotten(world: World) -> None:
    """A worker with max-tasks-per-child goes through thousands of processes."""
    for pid in range(100, 200):
        one = world.joined(pid)
        world.open_spans.started(one, key(pid), packed())
        world.died(one)
    assert len(world.lost(after=5)) == 100
    assert world.open_spans._processes == {}  # pyright: ignore[reportPrivateUsage]


def test_what_cannot_be_closed_is_counted(world: World) -> None:
    """A client sends a start that is none, and dies: nothing breaks."""
    child = world.joined()
    world.open_spans.started(child, key(1), b"\xc1 rubbish")
    world.died(child)
    assert world.lost(after=1) == []
    assert world.counters.counts()[DROPPED] == {("span", "malformed"): 1}
    with pytest.raises(FrameError):
        lost_spans.closed(frames.pack([1, 2]), 5, "")


def test_only_what_stays_open_is_kept_on_disk(world: World) -> None:
    """A span that opens and closes between two looks costs the disk nothing."""
    child = world.joined()
    for one in (1, 2, 3):
        world.open_spans.started(child, key(one), packed())
    world.open_spans.ended(key(1))
    assert world.open_spans.change_log.take() == ([key(2), key(3)], [], [key(1)])
    world.open_spans.ended(key(2))
    assert world.open_spans.change_log.take() == ([], [key(2)], [key(2)])
    assert ChangeLog().take() == ([], [], [])


def test_a_later_relay_takes_over(world: World) -> None:
    """The relay was killed while a child died: what that had open is told by the next relay."""
    child = world.joined()
    for one in (1, 2, 3):
        world.open_spans.started(child, key(one), RUN if one == 3 else packed())
    kept = [world.open_spans.start(key(one)) for one in (1, 2, 3)]
    world.open_spans = world.another()
    world.open_spans.restore([*kept, Start(key(4), b"", RESOURCE_BLOB, b"rubbish")], [key(2)])
    assert world.open_spans.open == 2
    assert world.open_spans.change_log.take() == ([], [key(2), key(4)], [])
    assert not world.open_spans.ended(key(2))
    assert world.lost(after=30) == []  # it lives, and will come back
    world.dead.add(CHILD)
    assert len(world.lost()) == 2


def test_runs_of_another_worker_are_not_waited_for(world: World) -> None:
    """A spool that a worker left behind: nobody will tell how its runs ended."""
    world.open_spans.started(world.joined(), key(1), RUN)
    kept = [world.open_spans.start(key(1))]
    world.open_spans = world.another(parent=99)
    world.open_spans.restore(kept, [])
    world.dead.add(CHILD)
    (row,) = world.lost(after=1)
    assert (
        row[span_encoder.END_NS] == row[span_encoder.START_NS]
    )  # it was there then, and not known later


def test_a_process_that_comes_and_goes_leaves_nothing(world: World) -> None:
    """A live process that connects under ever new names fills no memory."""
    for number in range(100):
        world.open_spans.left(
            world.open_spans.joined(number.to_bytes(16, "big"), CHILD, RESOURCE_BLOB)
        )
    assert world.open_spans._processes == {}  # pyright: ignore[reportPrivateUsage]


def test_recent_keys_are_bounded() -> None:
    """Keys of ended spans don't grow without end."""
    keys = RecentKeys(100)
    for one in range(1_000):
        keys.add(key(one))
        assert key(one) in keys
        assert key(max(0, one - 49)) in keys
        assert len(keys) <= 100
    assert key(0) not in keys


def test_recent_keys_take_the_same_memory_from_the_beginning() -> None:
    """My relay is no larger after 50,000 tasks than after the first."""
    tracemalloc.start()
    try:
        keys = RecentKeys(20_000)
        keys.add(os.urandom(24))
        first, _ = tracemalloc.get_traced_memory()
        for _ in range(30_000):
            keys.add(os.urandom(24))
        last, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(keys) > 10_000
    assert last - first < first / 100
