"""What children count is still there when they are killed, and is counted once."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import suppress
from threading import Thread
from types import CodeType, FrameType

import pytest

from taskobs.metrics import counter_memory
from taskobs.metrics.counter_keys import CounterKey, packed, publish_key, read_key
from taskobs.metrics.counter_memory import CounterMemory, CounterRegion
from taskobs.metrics.histogram import OTHER

KEY = publish_key("shop.pay", "celery", "")
WRITTEN = packed(KEY)


@pytest.fixture
def memory() -> Generator[CounterMemory]:
    """Give memory that is closed at the end."""
    made = CounterMemory()
    yield made
    made.close()


def child(memory: CounterMemory, counts: int, *, killed: bool = True) -> None:
    """Count in a child, which is killed then, and reaped."""
    pid = os.fork()
    if not pid:
        region = memory.take()
        assert region is not None
        for _ in range(counts):
            region.add(KEY)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    os.waitpid(pid, 0)


def test_what_killed_children_have_counted_is_counted_once(memory: CounterMemory) -> None:
    """Thirty children of mine are killed one after the other: no publish is lost or doubled."""
    for number in range(30):
        child(memory, 3)
        if number % 10 == 0:
            assert memory.sums()[WRITTEN] == [3 * (number + 1)]
    assert memory.sums() == {WRITTEN: [90]}
    assert memory.sums() == {WRITTEN: [90]}


def test_regions_are_used_again(memory: CounterMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """My pool is recycled for weeks: dead processes hold no memory."""
    monkeypatch.setattr(counter_memory, "REGIONS", 2)
    for number in range(6):
        child(memory, 1, killed=False)
        assert memory.sums() == {WRITTEN: [number + 1]}


def test_without_a_region_nothing_is_counted(
    memory: CounterMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I have more processes than regions: the others go without."""
    monkeypatch.setattr(counter_memory, "REGIONS", 1)
    assert memory.take() is not None
    assert memory.take() is None


def test_threads_count_together(memory: CounterMemory) -> None:
    """Threads of one process publish the same task: none overwrites what another has counted."""
    region = memory.take()
    assert region is not None
    add = region.add
    threads = [Thread(target=lambda: [add(KEY) for _ in range(50_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.sums() == {WRITTEN: [200_000]}


class StruckError(BaseException):
    """A time limit's signal, for one."""


def struck_after(calls: int, code: CodeType, act: Callable[[], object]) -> bool:
    """Have a signal raise in a function of ours, once so many calls of C have returned there."""
    left = calls

    def strike(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        if event == "c_return" and frame.f_code is code:
            left -= 1
            if left < 0:
                raise StruckError

    before = sys.getprofile()
    sys.setprofile(strike)
    try:
        with suppress(StruckError):
            act()
    finally:
        sys.setprofile(before)
    return left < 0


def free_for_others(descriptor: int) -> bool:
    """Tell whether another process gets the memory's lock."""
    pid = os.fork()
    if not pid:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def test_a_time_limit_that_strikes_leaves_no_lock(memory: CounterMemory) -> None:
    """My task's time limit passes while it counts first: no other child waits for it."""
    calls = 0
    _, _, descriptor = memory.address.partition(":")
    while struck_after(calls, CounterMemory.take.__code__, memory.take):
        assert free_for_others(int(descriptor))
        calls += 1
    assert calls >= 4


def test_a_time_limit_that_strikes_stops_no_later_count(memory: CounterMemory) -> None:
    """It passes while it counts something new: what it counts later is counted."""
    region = memory.take()
    assert region is not None
    calls = 0

    def add() -> None:
        region.add(publish_key("shop.pay", str(calls), ""))

    while struck_after(calls, CounterRegion.allocate.__code__, add):
        calls += 1
    assert calls >= 1
    calls += 1
    thread = Thread(target=add)
    thread.start()
    thread.join()
    assert memory.sums()[packed(publish_key("shop.pay", str(calls), ""))] == [1]


def test_a_signal_handler_that_counts_takes_no_place_of_others(memory: CounterMemory) -> None:
    """My signal's handler counts in the middle of a count: neither goes to another's name."""
    region = memory.take()
    assert region is not None
    inner, outer = publish_key("handler", "", ""), publish_key("task", "", "")
    code = CounterRegion._allocate.__code__  # pyright: ignore[reportPrivateUsage]

    def handle(frame: FrameType, event: str, _: object) -> None:
        if event == "c_return" and frame.f_code is code:
            sys.setprofile(None)
            region.add(inner)

    before = sys.getprofile()
    sys.setprofile(handle)
    try:
        region.add(outer)
    finally:
        sys.setprofile(before)
    region.add(inner)
    assert memory.sums() == {packed(outer): [1], packed(inner): [1]}


def test_what_has_no_room_is_counted_as_other(memory: CounterMemory) -> None:
    """I make up names of tasks: no publish goes uncounted, and nothing breaks."""
    region = memory.take()
    assert region is not None
    for number in range(200):
        region.add(publish_key("x" * 2_000, str(number), ""))
    region.add(publish_key("x" * 100_000, "", ""))
    sums = {read_key(key): value for key, [value] in memory.sums().items()}
    assert sum(sums.values()) == 201
    assert 50 < len(sums) < 150
    assert sums[OTHER, OTHER, ""] == 201 - (len(sums) - 1)


def test_all_processes_together_are_bounded_too(
    memory: CounterMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of my processes publishes tasks of other names: so many are told apart, all counted."""
    monkeypatch.setattr(counter_memory, "MAX_KEYS", 3)
    regions = [memory.take() for _ in range(3)]
    sums: dict[CounterKey | None, float] = {}
    for number, region in enumerate(regions * 3):
        assert region is not None
        region.add(publish_key(str(number % 5), "celery", ""))
        before, sums = sums, {read_key(key): one for key, [one] in memory.sums().items()}
        assert all(sums[key] >= one for key, one in before.items()), "no counter falls"
    assert len(sums) == 4
    assert sum(sums.values()) == 9
    assert sums[OTHER, OTHER, ""] == sum(number % 5 > 2 for number in range(9))


def test_what_is_malformed_ends_a_region(memory: CounterMemory) -> None:
    """Somebody writes nonsense into the memory: what comes before it is read."""
    region = memory.take()
    assert region is not None
    region.add(KEY)
    at = region._used  # pyright: ignore[reportPrivateUsage]  # a look inside
    region._keys[at : at + 6] = b"\x02\x00\x01\x00\xc1\xc1"  # pyright: ignore[reportPrivateUsage]  # same
    region._head[2] = at + 6  # pyright: ignore[reportPrivateUsage]  # same
    whole = {key: values for key, values in memory.sums().items() if read_key(key) is not None}
    assert whole == {WRITTEN: [1]}
