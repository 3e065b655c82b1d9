"""The table of the app's metric readers that processes of a worker share."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from taskobs.metrics.counter_memory import TABLE_AT, CounterMemory
from taskobs.metrics.reader_table import ENTRY, MOST, ReaderTable

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memory of Linux")


@pytest.fixture
def memory() -> Generator[CounterMemory]:
    made = CounterMemory()
    yield made
    made.close()


def test_the_same_settings_have_the_same_number(memory: CounterMemory) -> None:
    """All processes of a worker that set up the same reader count for one."""
    table = memory.readers
    assert [table.number(one) for one in (b"a", b"b", b"a", b"b")] == [1, 2, 1, 2]
    assert table.all() == [b"a", b"b"]


def test_a_child_and_its_parent_see_the_same(memory: CounterMemory) -> None:
    """A reader that a child has added is there for its parent."""
    descriptor = memory.address.partition(":")[2]
    child = CounterMemory(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR))
    assert child.readers.number(b"of the child") == 1
    assert memory.readers.all() == [b"of the child"]
    assert memory.readers.number(b"of the parent") == 2
    assert child.readers.all() == [b"of the child", b"of the parent"]
    child.close()


def test_there_is_room_for_so_many(memory: CounterMemory) -> None:
    """One more than that, and one that is too long, has no number; sums are not overwritten."""
    region = memory.own()
    assert region is not None
    region.add(("publish", "task", "queue", ""), 7)
    assert memory.readers.number(b"x" * ENTRY) == 0
    longest = b"x" * (ENTRY - 4)
    found = [memory.readers.number(bytes([n]) + longest[1:]) for n in range(MOST + 1)]
    assert found == [*range(1, MOST + 1), 0]
    assert memory.readers.number(b"\0" + longest[1:]) == 1
    assert list(memory.sums().values()) == [[7.0]]


def test_a_process_that_was_killed_in_the_middle_has_added_nothing(tmp_path: object) -> None:
    """What it wrote has no length yet: the next one writes there."""
    file = os.open(f"{tmp_path}/memory", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, TABLE_AT + MOST * ENTRY)
    os.pwrite(file, b"half of it", TABLE_AT + 4)
    table = ReaderTable(file, TABLE_AT)
    assert table.all() == []
    assert table.number(b"whole") == 1
    assert table.all() == [b"whole"]
    os.close(file)
