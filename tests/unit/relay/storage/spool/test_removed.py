"""A spool that somebody removes, moves or replaces while the relay uses it."""

# A few tests look inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import pytest

from taskobs.relay.counters import DROPPED, Counters
from taskobs.relay.storage.items import Item, Start
from taskobs.relay.storage.spool.in_use import RETRY
from taskobs.relay.storage.spool.store import REMOVED, Spool, SpoolConfig

SMALL = 1024 * 1024
OPEN = [Start(b"%d" % n, b"open", b"about", b"client") for n in range(2)]
Change = Callable[[Path], object]


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def released() -> list[object]:
    return []


@pytest.fixture
def config(tmp_path: Path) -> SpoolConfig:
    return SpoolConfig(tmp_path / "spool", "celery@a", worker_pid=os.getpid())


@pytest.fixture
def spool(config: SpoolConfig, released: list[object], clock: Clock) -> Generator[Spool]:
    with closing(Spool(Counters(), config, released.extend, clock)) as spool:
        yield spool


def item(payload: bytes, source: object = None) -> Item:
    return Item("span", payload, b"about", source)


def taken(spool: Spool, number: int = 100) -> list[bytes]:
    """Take and forget what waits."""
    found: list[bytes] = []
    while spool.pending("span").items and len(found) < number:
        batch = spool.take("span", 1, SMALL, 0)
        found += [one.item.payload for one in batch]
        spool.done(batch)
    return found


def kept(config: SpoolConfig) -> tuple[list[bytes], list[Start], list[bytes]]:
    """Give what a later relay finds in the directory."""
    with closing(Spool(Counters(), config)) as spool:
        return taken(spool), spool.starts(), spool.ended()


def the_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def the_file(path: Path) -> None:
    path.unlink()


def all_files(path: Path) -> None:
    for one in path.parent.iterdir():
        one.unlink()


def the_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def the_index(path: Path) -> None:
    path.with_name(f"{path.name}-shm").unlink()


def by_another_file(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.write_bytes(b"something else")


def by_a_new_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()


CHANGES: list[Change] = [
    *(the_directory, the_file, all_files, the_log, the_index),
    *(by_another_file, by_a_new_directory),
]


@pytest.mark.parametrize("remove", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("idle", [False, True])
def test_what_a_removed_spool_held_is_written_again(
    spool: Spool,
    config: SpoolConfig,
    caplog: pytest.LogCaptureFixture,
    remove: Change,
    *,
    idle: bool,
) -> None:
    """A clean-up removes my spool while it is used: the next relay finds all that it held, once."""
    spool.append([item(b"sent"), item(b"1"), item(b"2")], starts=OPEN, ended=[b"ended"])
    assert taken(spool, 1) == [b"sent"]
    under_way = spool.take("span", 1, SMALL, 0)
    remove(spool.path)
    if idle:
        spool.check()
    else:
        assert spool.append([item(b"3", "source")], ended=[OPEN[0].key]) == ["source"]
    (line,) = caplog.messages
    assert "was removed while in use" in line
    spool.done(under_way)
    spool.append([item(b"4")])
    copy = config.directory.with_name("copy")
    shutil.copytree(config.directory, copy)  # as a kill of the relay leaves it
    found, starts, ended = kept(config._replace(directory=copy))
    assert sorted(found) == ([b"2", b"4"] if idle else [b"2", b"3", b"4"])
    assert sorted(starts) == (OPEN if idle else OPEN[1:])
    assert ended == ([b"ended"] if idle else [b"ended", OPEN[0].key])
    assert taken(spool) == ([b"2", b"4"] if idle else [b"2", b"3", b"4"])
    assert len(caplog.messages) == 1


def test_a_spool_that_was_moved_is_not_sent_twice(spool: Spool, config: SpoolConfig) -> None:
    """I move the directory under a running worker, and start another one at its new place."""
    spool.append([item(b"1")])
    by_a_new_directory(spool.path)
    spool.check()
    assert kept(config._replace(directory=config.directory.with_name("moved")))[0] == []
    assert taken(spool) == [b"1"]


def block(config: SpoolConfig) -> None:
    """Remove the directory, and have it be in the way of a new one."""
    shutil.rmtree(config.directory)
    config.directory.write_text("no directory")


def test_nothing_is_believed_safe_while_it_can_not_be_written_again(
    spool: Spool,
    config: SpoolConfig,
    clock: Clock,
    released: list[object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The directory is gone for good: my processes keep what they told until it is sent."""
    spool.append([item(b"1")])
    block(config)
    assert spool.append([item(b"2", "two")]) == []
    assert spool.append([item(b"3", "three"), item(b"4", "four")]) == []
    assert not spool.is_safe(spool.flush())
    assert len([line for line in caplog.messages if "can't be written again" in line]) == 1
    assert taken(spool, 2) == [b"1", b"2"]
    assert released == ["two"]
    config.directory.unlink()
    spool.check()  # too early to try again
    assert released == ["two"]
    clock.now += RETRY
    spool.check()
    assert released == ["two", "three", "four"]
    assert spool.append([item(b"5", "five")]) == ["five"]
    assert spool.is_safe(spool.flush())
    assert taken(spool) == [b"3", b"4", b"5"]


def test_what_can_not_be_written_again_at_the_end_is_counted(config: SpoolConfig) -> None:
    """The worker stops, and the directory is still gone: I am told what that cost."""
    counters = Counters()
    with closing(Spool(counters, config)) as spool:
        spool.append([item(b"1"), item(b"2"), item(b"3")])
        spool.take("span", 1, SMALL, 0)
        block(config)
        assert not counters.total(DROPPED)
    assert counters.counts()[DROPPED] == {("span", REMOVED): 3}


def test_a_full_disk_keeps_nothing_safe(spool: Spool, released: list[object]) -> None:
    """The disk is full, then the relay is killed: what it could not write is sent by the next."""
    assert spool.append([item(b"1", "one")]) == ["one"]
    spool._rows._db.execute("PRAGMA max_page_count = 1")
    assert spool.append([item(b"2" * 100_000, "two"), item(b"3", "three")]) == []
    assert not spool.is_safe(spool.flush())
    assert [one[:1] for one in taken(spool, 2)] == [b"1", b"2"]
    assert released == ["two"]
    spool._rows._db.execute("PRAGMA max_page_count = 100000")
    spool._writes._backlog.failed(wait=False)
    assert spool.append([item(b"4", "four")]) == ["three", "four"]
    assert spool.is_safe(spool.flush())


def test_what_a_full_disk_and_a_full_memory_have_no_room_for_is_settled(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is dropped, and counted, is not kept by its process either."""
    spool._rows._db.execute("PRAGMA max_page_count = 1")
    monkeypatch.setattr(spool._writes._backlog, "_limit", 150_000)
    assert spool.append([item(b"1" * 100_000, "one")]) == []
    assert spool.append([item(b"2" * 100_000, "two")]) == ["one"]


def test_a_damaged_spool_that_can_not_be_replaced_is_replaced_later(
    spool: Spool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is damaged while the directory takes no other name: once it does, all goes on."""
    spool.append([item(b"1")])

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with spool._lock:
            spool._handle(sqlite3.DatabaseError("malformed"))
    damaged = spool.path
    spool.append([item(b"2")])
    clock.now += RETRY
    spool.check()
    assert damaged.exists()
    spool._writes._backlog.failed(wait=False)
    spool.append([item(b"3")])
    assert spool.path != damaged
    assert taken(spool) == [b"2", b"3"]
