"""What waits on disk."""

# A few tests look inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from taskobs.relay.counters import DROPPED, SPOOLED, Counters
from taskobs.relay.storage.base import OVERFLOW, TOO_OLD
from taskobs.relay.storage.items import Item, Start, weight
from taskobs.relay.storage.memory import MemoryStore
from taskobs.relay.storage.opening import open_store
from taskobs.relay.storage.spool.backlog import WriteBacklog
from taskobs.relay.storage.spool.store import Spool, SpoolConfig
from taskobs.relay.storage.spool.worker_process import WorkerProcess
from taskobs.relay.storage.spool.writes import UNWRITABLE
from tests.support.pids import NO_PROCESS
from tests.support.spool import look, taken

SMALL = 1024 * 1024


def item(payload: bytes, resource_blob: bytes = b"about", *, envelope: bool = False) -> Item:
    return Item("envelope" if envelope else "span", payload, resource_blob)


@pytest.fixture
def config(tmp_path: Path) -> SpoolConfig:
    return SpoolConfig(tmp_path / "spool", "celery@a", worker_pid=os.getpid())


@pytest.fixture
def spool(config: SpoolConfig) -> Generator[Spool]:
    made = Spool(Counters(), config)
    yield made
    made.close()


def test_what_was_not_sent_is_there_after_a_restart(config: SpoolConfig) -> None:
    """The relay ends during an outage, and what it could not send goes out next time."""
    with closing(Spool(Counters(), config)) as first:
        first.append([item(b"1"), item(b"2", b"other"), item(b"x", envelope=True), item(b"3")])
        unavailable = first.take("span", 1, SMALL, 0)
        first.done(unavailable)
        assert [one.item.payload for one in first.take("span", 1, SMALL, 0)] == [b"2"]
    with closing(Spool(Counters(), config)) as second:
        second.announce(b"about")
        assert second.pending("span").items == 2
        batch = second.take("span", 10, SMALL, 0)
        assert [(one.item.payload, one.item.resource_blob) for one in batch] == [
            (b"2", b"other"),
            (b"3", b"about"),
        ]
        assert taken(second, "envelope") == [b"x"]


def test_starts_and_what_has_ended_are_kept_for_the_next_relay(config: SpoolConfig) -> None:
    """A relay that is started anew knows what was open, and what it has had already."""
    with closing(Spool(Counters(), config)) as first:
        kept = [Start(b"%d" % n, b"open", b"about", b"client") for n in range(3)]
        first.start_put(kept)
        first.append([item(b"1")], ended=[b"1"])
        first.start_del([b"2"])
    with closing(Spool(Counters(), config)) as second:
        assert second.starts() == [Start(b"0", b"open", b"about", b"client")]
        assert second.ended() == [b"1"]


def test_the_oldest_are_dropped_beyond_the_bytes(config: SpoolConfig) -> None:
    """A spool does not fill the disk; what it could not keep is counted."""
    counters = Counters()
    config = config._replace(bytes=3 * weight(item(b"1")))
    with closing(Spool(counters, config)) as spool:
        spool.append([item(b"%d" % n) for n in range(3)])
        spool.append([item(b"3"), item(b"4")])
        assert taken(spool) == [b"2", b"3", b"4"]
        assert counters.counts()[DROPPED] == {("span", OVERFLOW): 2}
        assert counters.total(SPOOLED) == 5


def test_what_is_being_sent_is_not_dropped(config: SpoolConfig) -> None:
    """Nothing is counted as dropped that then goes out."""
    counters = Counters()
    with closing(Spool(counters, config._replace(bytes=2 * weight(item(b"1"))))) as spool:
        spool.append([item(b"1"), item(b"2")])
        batch = spool.take("span", 1, SMALL, 0)
        spool.append([item(b"3")])
        spool.done(batch)
        assert taken(spool) == [b"3"]
        assert counters.total(DROPPED) == 1


def test_what_is_too_old_is_given_up(config: SpoolConfig) -> None:
    """Nobody wants last week's spans."""
    with closing(Spool(Counters(), config)) as spool:
        spool.append([item(b"old")])
    counters = Counters()
    with closing(Spool(counters, config._replace(age=0.0001))) as spool:
        assert spool.pending("span") == (0, 0)
        assert counters.counts()[DROPPED] == {("span", TOO_OLD): 1}


def test_a_hurry_and_its_mark(spool: Spool) -> None:
    """A flush knows when what it waits for is out."""
    spool.append([item(b"1"), item(b"x", envelope=True)])
    mark = spool.flush()
    spool.append([item(b"2")])
    spool.done(spool.take("span", 1, SMALL, 5))
    assert not spool.is_flushed(mark)
    assert taken(spool, "envelope") == [b"x"]
    assert spool.is_flushed(mark)


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + b"\1" * 9000])
def test_a_file_that_is_no_spool_is_set_aside(
    config: SpoolConfig, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Something else lies where the spool should be: it is renamed, and one line says so."""
    config.directory.mkdir()
    path = config.directory / "celery@a.spool"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING), closing(Spool(Counters(), config)) as spool:
        spool.append([item(b"1")])
        assert taken(spool) == [b"1"]
    [aside] = config.directory.glob("*.set-aside-*")
    assert aside.read_bytes() == content
    [line] = caplog.messages
    assert aside.name in line


def test_another_programs_database_is_set_aside(config: SpoolConfig) -> None:
    """A database of another program is left as it is, under another name."""
    config.directory.mkdir()
    with closing(sqlite3.connect(config.directory / "celery@a.spool")) as db:
        db.execute("CREATE TABLE theirs (x)")
    with closing(Spool(Counters(), config)) as spool:
        assert spool.pending("span").items == 0
    [aside] = config.directory.glob("*.set-aside-*")
    with closing(sqlite3.connect(aside)) as db:
        assert db.execute("SELECT count(*) FROM theirs").fetchone() == (0,)


def test_a_file_that_breaks_while_in_use_is_set_aside(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that loses a page costs what was in the file, and the relay goes on."""
    spool.append([item(b"x" * 3000, b"%d" % n) for n in range(50)])
    with closing(sqlite3.connect(spool.path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with spool.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 200_000)
    spool.append([item(b"%d" % n) for n in range(9)])
    for _ in range(3):
        if not any("set aside" in line for line in caplog.messages):
            spool.append([item(b"again")])
    spool.append([item(b"last")])
    assert any("set aside" in line for line in caplog.messages)
    assert taken(spool)[-1] == b"last"


def test_two_relays_of_one_name_have_a_file_each(config: SpoolConfig) -> None:
    """A worker is restarted while the relay of the one before still drains."""
    with closing(Spool(Counters(), config)) as first:
        first.append([item(b"1")])
        with closing(Spool(Counters(), config)) as second:
            assert second.path != first.path
            assert second.pending("span").items == 0


def test_what_a_dead_worker_left_is_taken_over(config: SpoolConfig) -> None:
    """A pod is gone with its worker; the next one sends what it has left."""
    with closing(Spool(Counters(), config._replace(worker="old", worker_pid=NO_PROCESS))) as old:
        old.append([item(b"1"), item(b"2", b"theirs"), item(b"x", envelope=True)])
        old.append([], starts=[Start(b"k", b"open", b"theirs", b"client")], ended=[b"e"])
    with closing(Spool(Counters(), config)) as spool:
        spool.announce(b"about")
        look(spool)
        spool.append([item(b"3")])
        assert spool.starts() == [Start(b"k", b"open", b"theirs", b"client")]
        assert spool.ended() == [b"e"]
        batch = spool.take("span", 10, SMALL, 0)
        assert [(one.item.payload, one.item.resource_blob) for one in batch] == [
            (b"1", b"about"),
            (b"2", b"theirs"),
            (b"3", b"about"),
        ]
        assert taken(spool, "envelope") == [b"x"]
    assert sorted(path.name for path in config.directory.iterdir()) == [
        "celery@a.lock",
        "celery@a.spool",
    ]


def test_what_is_taken_over_later_is_sent_and_told_of(config: SpoolConfig) -> None:
    """A worker dies beside mine: what it left is newer to my relay than all that it has sent."""
    with closing(Spool(Counters(), config)) as spool:
        spool.announce(b"about")
        spool.append([item(b"%d" % n) for n in range(20)])
        assert len(taken(spool)) == 20
        with closing(
            Spool(Counters(), config._replace(worker="old", worker_pid=NO_PROCESS))
        ) as old:
            opened = Start(b"k", b"open", b"theirs", b"client")
            old.append([item(b"theirs"), item(b"x", envelope=True)], starts=[opened])
        assert not spool.inherited()
        look(spool)
        assert [one.item.payload for one in spool.take("span", 9, SMALL, 0)] == [b"theirs"]
        assert taken(spool, "envelope") == [b"x"]
        assert spool.inherited() == [opened]
        assert not spool.inherited()


def test_a_relay_finds_what_the_one_before_it_has_kept_beside(config: SpoolConfig) -> None:
    """My worker was restarted, its relay used a second file, and is killed: the next has both."""
    first = Spool(Counters(), config._replace(worker_pid=NO_PROCESS))
    with closing(first), closing(Spool(Counters(), config)) as second:
        assert second.path.name == "celery@a+2.spool"
        second.append([item(b"1")], starts=[Start(b"k", b"open", b"about", b"client")])
    with closing(Spool(Counters(), config)) as third:
        assert third.path.name == "celery@a.spool"
        assert [start.key for start in third.starts()] == [b"k"]
        assert taken(third) == [b"1"]


def test_a_file_whose_worker_lives_is_left_to_it(config: SpoolConfig) -> None:
    """A relay is being restarted: what it had open is not another's to tell of."""
    with closing(Spool(Counters(), config._replace(worker="other"))) as other:
        other.append([item(b"1")])
    with closing(Spool(Counters(), config)) as spool:
        assert spool.pending("span").items == 0
    with closing(Spool(Counters(), config._replace(worker="other"))) as other:
        assert taken(other) == [b"1"]


def test_a_broken_file_of_a_dead_worker_is_set_aside(config: SpoolConfig) -> None:
    """One broken file does not keep a relay from its own."""
    config.directory.mkdir()
    left = config.directory / "old.spool"
    left.write_bytes(b"nonsense" * 1000)
    left.with_suffix(".lock").write_text(WorkerProcess.of(NO_PROCESS).dumps())
    with closing(Spool(Counters(), config)) as spool:
        spool.append([item(b"1")])
    assert [path.name.partition("-2")[0] for path in config.directory.glob("old.spool*")] == [
        "old.spool.set-aside"
    ]


def test_a_directory_that_cannot_be_used_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """I mistype the directory: telemetry goes out from memory, and a line says why."""
    (tmp_path / "file").write_text("")
    store = open_store({"directory": tmp_path / "file" / "x"}, "celery@a", Counters())
    assert isinstance(store, MemoryStore)
    assert "kept in memory" in caplog.text
    assert isinstance(open_store(None, "celery@a", Counters()), MemoryStore)


def fill(spool: Spool) -> None:
    """Have the file grow no more."""
    spool._rows._db.execute("PRAGMA max_page_count = 1")


def empty(spool: Spool) -> None:
    """Let the file grow again, and have it tried at once."""
    spool._rows._db.execute("PRAGMA max_page_count = 100000")
    spool._writes._backlog.failed(wait=False)


def test_while_the_disk_is_full_memory_serves(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else fills my disk: what comes meanwhile is sent all the same, in its order."""
    spool.append([item(b"1")])
    fill(spool)
    spool.append([item(b"2" * 100_000), item(b"x", envelope=True)])
    spool.append([item(b"3")])
    assert spool.pending("span").items == 3
    mark = spool.flush()
    assert not spool.is_flushed(mark)
    assert [one[:1] for one in taken(spool)] == [b"1", b"2", b"3"]
    assert taken(spool, "envelope") == [b"x"]
    assert spool.is_flushed(mark)
    assert not spool._counters.total(DROPPED)
    assert len([line for line in caplog.messages if "failed, keeping new items" in line]) == 1


def test_what_memory_kept_is_written_when_there_is_room_again(
    config: SpoolConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """My disk is full for a while, and then the relay is killed: nothing is missing."""
    with closing(Spool(Counters(), config)) as first:
        opened = [Start(b"%d" % n, b"open", b"about", b"client") for n in range(3)]
        first.append([], starts=opened[:1])
        fill(first)
        first.append([item(b"1" * 100_000)], starts=opened[1:], ended=[b"0"])
        first.append([item(b"2"), item(b"x", envelope=True)], ended=[b"1"])
        unavailable = first.take("span", 1, SMALL, 0)
        first.done(unavailable)
        empty(first)
        first.append([item(b"3")])
        with closing(sqlite3.connect(first.path)) as db:
            assert db.execute("SELECT count(*) FROM item").fetchone() == (3,)
        assert any("succeeds again" in line for line in caplog.messages)
        assert [one.item.payload for one in first.take("span", 1, SMALL, 0)] == [b"2"]
    with closing(Spool(Counters(), config)) as second:
        assert second.starts() == opened[2:]
        assert second.ended() == [b"0", b"1"]
        second.announce(b"about")
        assert taken(second) == [b"2", b"3"]
        assert taken(second, "envelope") == [b"x"]


def test_what_was_sent_while_the_disk_was_full_is_not_sent_again(config: SpoolConfig) -> None:
    """Nothing can be deleted on a full disk; it is once there is room, at the end at the latest."""
    with closing(Spool(Counters(), config)) as first:
        first.append([item(b"1"), item(b"2")])
        batch = first.take("span", 1, SMALL, 0)
        first._rows._db.execute("PRAGMA query_only = 1")
        first.done(batch)
        assert first.pending("span").items == 1
        first._rows._db.execute("PRAGMA query_only = 0")
    with closing(Spool(Counters(), config)) as second:
        assert taken(second) == [b"2"]


def test_what_neither_disk_nor_memory_has_room_for_is_counted(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full and so is the memory: the oldest spans are lost, but not in silence."""
    spool._writes._backlog = WriteBacklog(limit=2 * weight(item(b"1" * 100_000)))
    fill(spool)
    for n in range(4):
        spool.append([item(b"%d" % n * 100_000)])
    assert spool._counters.counts()[DROPPED] == {("span", UNWRITABLE): 2}
    assert "full" in caplog.text
    assert [one[:1] for one in taken(spool)] == [b"2", b"3"]


def test_what_the_disk_has_no_room_for_at_the_end_is_counted(config: SpoolConfig) -> None:
    """My worker stops while the disk is full: I am told what that cost."""
    counters = Counters()
    with closing(Spool(counters, config)) as spool:
        fill(spool)
        spool.append([item(b"1" * 100_000), item(b"x" * 100_000, envelope=True)])
        assert not counters.total(DROPPED)
    assert counters.counts()[DROPPED] == {("span", UNWRITABLE): 1, ("envelope", UNWRITABLE): 1}


def test_what_memory_kept_is_not_overtaken_by_what_is_taken_over(config: SpoolConfig) -> None:
    """There is room again, and a worker beside mine is gone: all of it is sent, mine first."""
    with closing(Spool(Counters(), config)) as spool:
        fill(spool)
        spool.append([item(b"mine" * 10_000)])
        spool._rows._db.execute("PRAGMA max_page_count = 100000")  # not tried yet
        with closing(
            Spool(Counters(), config._replace(worker="old", worker_pid=NO_PROCESS))
        ) as old:
            old.append([item(b"theirs")])
        look(spool)
        assert [one.item.payload[:4] for one in spool.take("span", 9, SMALL, 0)] == [b"mine"]
        empty(spool)
        look(spool)
        spool.append([item(b"more")])
        found = [one.item.payload for one in spool.take("span", 9, SMALL, 0)]
        assert sorted(found) == [b"more", b"theirs"]


def test_a_file_that_cannot_be_read_does_not_keep_what_is_in_memory(spool: Spool) -> None:
    """The disk is gone for good: what comes is sent all the same, and nothing piles up."""
    spool._rows.close()
    for n in range(3):
        spool.append([item(b"%d" % n)])
        batch = spool.take("span", 9, SMALL, 0)
        assert [one.item.payload for one in batch] == [b"%d" % n]
        spool.done(batch)
    assert not spool._writes.sent


def test_a_new_file_takes_nothing_from_what_comes(spool: Spool) -> None:
    """The file breaks while a batch is being sent: only that batch is forgotten with it."""
    spool.append([item(b"%d" % n) for n in range(5)])
    batch = spool.take("span", 5, SMALL, 0)
    with spool._lock:
        spool._handle(sqlite3.DatabaseError("malformed"))
    spool.append([item(b"new %d" % n) for n in range(5)])
    spool.done(batch)
    assert taken(spool) == [b"new %d" % n for n in range(5)]


def test_the_files_are_for_the_user_alone(spool: Spool) -> None:
    """Spans may hold what others should not read."""
    spool.append([item(b"1")])
    assert spool.path.parent.stat().st_mode & 0o077 == 0
    for _ in "before", "after":
        modes = [path.stat().st_mode & 0o077 for path in spool.path.parent.iterdir()]
        assert modes == [0] * len(modes)
        with spool._lock:
            spool._handle(sqlite3.DatabaseError("malformed"))
        spool.append([item(b"2")])


def test_a_workers_name_makes_no_path(config: SpoolConfig) -> None:
    """A worker is called ../../etc, and its spool is still in its directory."""
    with closing(Spool(Counters(), config._replace(worker="../../etc/pass wd"))) as spool:
        assert spool.path.parent == config.directory


def test_what_nothing_refers_to_is_forgotten(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children come and go, each with a resource of its own: the file does not grow with them."""
    monkeypatch.setattr("taskobs.relay.storage.spool.rows._RESOURCES", 10)
    spool.append([item(b"1", b"%d" % n) for n in range(20)])
    assert len(taken(spool)) == 20
    look(spool)
    spool.append([item(b"2", b"last")])
    assert [one.item.resource_blob for one in spool.take("span", 5, SMALL, 0)] == [b"last"]
    assert spool._rows._db.execute("SELECT count(*) FROM about").fetchone() == (1,)


def test_a_spool_is_fast_enough(spool: Spool) -> None:
    """A relay with a spool keeps up with its worker: well over a thousand spans a second."""
    begun = time.process_time()
    for _ in range(100):
        spool.append([item(b"x" * 600) for _ in range(20)])
    assert len(taken(spool)) == 2000
    assert time.process_time() - begun < 1.0
