"""The spool's directory as hostile ground: other owners, links, foreign files, removed locks."""

# A few tests look inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from taskobs.relay.counters import Counters
from taskobs.relay.storage.spool.store import Spool, SpoolConfig
from taskobs.relay.storage.spool.worker_process import UNCHANGED_FOR, WorkerProcess
from tests.support.pids import NO_PROCESS
from tests.support.spool import item, leave, look, taken

OTHER_USER = 12_345


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def config(tmp_path: Path) -> SpoolConfig:
    return SpoolConfig(tmp_path / "spool", "celery@a", worker_pid=os.getpid())


# The lock.


def test_a_live_spool_is_not_taken_over_though_its_lock_file_was_removed(
    config: SpoolConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """A cleaner removes old files, and nothing changes for two minutes: no span is sent twice."""
    clock = Clock()
    with (
        closing(Spool(Counters(), config._replace(worker="other"))) as live,
        closing(Spool(Counters(), config, clock=clock)) as spool,
    ):
        live.append([item(b"1")])
        live.path.with_suffix(".lock").unlink()
        for _ in range(3):
            clock.now += UNCHANGED_FOR
            look(spool)
        assert spool.pending("span").items == 0
        look(live)
        assert live.path.with_suffix(".lock").read_text() == WorkerProcess.of(os.getpid()).dumps()
        look(live)
        assert taken(live) == [b"1"]
    assert len([line for line in caplog.messages if "lock file" in line]) == 1


def test_a_spool_of_another_host_is_taken_over_once_nothing_changes(config: SpoolConfig) -> None:
    """A volume goes from one pod to the next, whose process ids say nothing here."""
    path = leave(config, "other", os.getpid(), b"1")
    worker_process = WorkerProcess.of(os.getpid())._replace(host="elsewhere")
    path.with_suffix(".lock").write_text(worker_process.dumps())
    clock = Clock()
    with closing(Spool(Counters(), config, clock=clock)) as spool:
        clock.now += UNCHANGED_FOR - 1
        os.utime(path.with_suffix(".lock"))  # its relay lives
        look(spool)
        clock.now += UNCHANGED_FOR - 1
        look(spool)
        assert spool.pending("span").items == 0
        clock.now += 1
        look(spool)
        assert taken(spool) == [b"1"]


@pytest.mark.parametrize("seconds", [-86_400.0 * 3, 86_400.0 * 3])
def test_a_clock_that_is_set_makes_no_spool_look_abandoned(
    config: SpoolConfig, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Another host writes to the volume too, and the clock here is set by days."""
    path = leave(config, "other", os.getpid(), b"1")
    worker_process = WorkerProcess.of(os.getpid())._replace(host="elsewhere")
    path.with_suffix(".lock").write_text(worker_process.dumps())
    now = path.stat().st_mtime + seconds
    monkeypatch.setattr("time.time", lambda: now)
    with closing(Spool(Counters(), config)) as spool:
        look(spool)
        assert spool.pending("span").items == 0


def test_the_worker_of_a_live_spool_is_known_by_more_than_its_pid(config: SpoolConfig) -> None:
    """Its process id was given to another process: the spool is abandoned."""
    path = leave(config, "other", os.getpid(), b"1")
    worker_process = WorkerProcess.of(os.getpid())
    path.with_suffix(".lock").write_text(
        worker_process._replace(started=worker_process.started + 1).dumps()
    )
    with closing(Spool(Counters(), config)) as spool:
        assert taken(spool) == [b"1"]


# Files that are not ours.


def a_link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def of_everybody(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


def with_two_names(path: Path) -> None:
    path.touch(0o600)
    path.with_name("second").hardlink_to(path)


FOREIGN: list[Callable[[Path], None]] = [*(a_link, a_fifo, a_folder, of_everybody, with_two_names)]


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
@pytest.mark.parametrize("suffix", [".spool", ".lock", ".spool-wal"])
def test_a_foreign_file_stops_no_take_over(
    config: SpoolConfig,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], None],
    suffix: str,
) -> None:
    """Something else lies among the spools: it is skipped, once said, and the others are sent."""
    first = leave(config, "a-first", NO_PROCESS, b"1")
    foreign = first.with_name(f"foreign{suffix}")
    if suffix != ".spool":
        first.with_name("foreign.spool").touch(0o600)
    make(foreign)
    leave(config, "z-last", NO_PROCESS, b"2")
    before = os.lstat(foreign)
    clock = Clock()
    with closing(Spool(Counters(), config, clock=clock)) as spool:
        for _ in range(3):
            clock.now += UNCHANGED_FOR
            look(spool)
        assert taken(spool) == [b"1", b"2"]
    assert os.lstat(foreign)[:4] == before[:4]
    assert len([line for line in caplog.messages if "skipped" in line]) == 1


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
@pytest.mark.parametrize("suffix", [".spool", ".lock", ".spool-wal"])
def test_a_foreign_file_in_place_of_ours_is_not_touched(
    config: SpoolConfig,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], None],
    suffix: str,
) -> None:
    """`celery@a.lock` is a link to my notes: they are as they were, and the spool works."""
    config.directory.mkdir(mode=0o700)
    notes = config.directory / "elsewhere"
    notes.write_text("my notes")
    notes.chmod(0o600)
    planted = config.directory / f"celery@a{suffix}"
    make(planted)
    before = os.lstat(planted)
    with closing(Spool(Counters(), config)) as spool:
        spool.append([item(b"1")])
        assert spool.path.name == "celery@a+2.spool"
        assert taken(spool) == [b"1"]
    assert notes.read_text() == "my notes"
    assert os.lstat(planted)[:4] == before[:4]
    assert "another file is used" in caplog.text


def test_what_can_not_be_removed_is_not_sent_again_and_harms_nothing(
    config: SpoolConfig,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The directory lets me write files and remove none: each span once, my spool as it was."""
    with closing(Spool(Counters(), config)) as spool:
        spool.append([item(b"mine")])
        leave(config, "other", NO_PROCESS, b"theirs")

        def refuse(_path: Path, *, missing_ok: bool = False) -> None:
            del missing_ok
            raise PermissionError(1, "Operation not permitted")

        with monkeypatch.context() as sticky:
            sticky.setattr(Path, "unlink", refuse)
            for number in range(3):
                look(spool)
                spool.append([item(b"%d" % number)])
        assert taken(spool) == [b"mine", b"theirs", b"0", b"1", b"2"]
        assert spool.path.name == "celery@a.spool"
    assert not list(config.directory.glob("*.set-aside-*"))
    assert len([line for line in caplog.messages if "skipped" in line]) == 1


def test_a_mistake_of_ours_does_not_set_a_good_spool_aside(config: SpoolConfig) -> None:
    """Only a damaged file is put away, whatever else a database may say."""
    with closing(Spool(Counters(), config)) as spool:
        spool.append([item(b"1")])
        with spool._lock:
            spool._handle(sqlite3.IntegrityError("UNIQUE constraint failed"))
        assert taken(spool) == [b"1"]


# The directory.


def test_my_own_link_is_followed(tmp_path: Path) -> None:
    """/var/spool/taskobs is my link to a larger disk."""
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "spool").symlink_to(tmp_path / "disk")
    with closing(Spool(Counters(), SpoolConfig(tmp_path / "spool", "celery@a"))) as spool:
        spool.append([item(b"1")])
    assert (tmp_path / "disk" / "celery@a.spool").exists()
