"""The spool's directory belongs to several users, each of them a process of the test."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import closing
from pathlib import Path

import pytest

from taskobs.relay.counters import Counters
from taskobs.relay.storage.memory import MemoryStore
from taskobs.relay.storage.opening import open_store
from taskobs.relay.storage.spool.store import Spool, SpoolConfig
from tests.support.as_user import NOBODY, needs_root, run_as
from tests.support.pids import NO_PROCESS
from tests.support.spool import item, leave, look, taken

OTHER_USER = 12_345


@needs_root
def test_a_file_of_another_user_stops_no_take_over(shared_path: Path) -> None:
    """I once ran the worker as root: the file it left is mine to remove, and keeps nothing up."""
    config = SpoolConfig(shared_path / "spool", "celery@a")
    leave(config, "a-root", NO_PROCESS, b"root's")
    os.chown(config.directory, NOBODY, NOBODY)

    def start() -> None:
        leave(config, "z-mine", NO_PROCESS, b"mine")
        with closing(Spool(Counters(), config)) as spool:
            look(spool)
            assert taken(spool) == [b"mine"]

    run_as(NOBODY, start)
    assert (config.directory / "a-root.spool").exists()


@needs_root
@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o755])
def test_a_directory_that_is_shared_gets_a_private_one_inside(shared_path: Path, mode: int) -> None:
    """An emptyDir belongs to root, and everybody may write there: my spool is mine alone."""
    shared = shared_path / "spool"
    shared.mkdir()
    private = shared / f"taskobs-{NOBODY}"
    if mode == 0o755:
        private.mkdir()
        os.chown(private, NOBODY, NOBODY)
    shared.chmod(mode)

    def start() -> None:
        with closing(Spool(Counters(), SpoolConfig(shared, "celery@a"))) as spool:
            assert spool.path.parent == private
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
            spool.append([item(b"1")])
            assert taken(spool) == [b"1"]

    run_as(NOBODY, start)


@needs_root
@pytest.mark.parametrize("kind", ["directory", "link", "file"])
def test_a_directory_that_another_user_has_planted_is_not_used(
    shared_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Somebody was there before me: the relay keeps what waits in memory, and says why."""
    shared = shared_path / "spool"
    shared.mkdir()
    shared.chmod(0o1777)
    planted = shared / f"taskobs-{NOBODY}"
    if kind == "directory":
        planted.mkdir()
    elif kind == "file":
        planted.touch()
    else:
        planted.symlink_to(shared_path)
    os.chown(planted, OTHER_USER, OTHER_USER, follow_symlinks=False)

    def start() -> None:
        with caplog.at_level(logging.WARNING):
            store = open_store({"directory": str(shared)}, "celery@a", Counters())
        assert isinstance(store, MemoryStore)
        assert str(planted) in caplog.text

    run_as(NOBODY, start)
    assert list(shared.iterdir()) == [planted]
    assert list(shared_path.iterdir()) == [shared]


@needs_root
def test_a_link_that_another_user_has_made_is_not_followed(shared_path: Path) -> None:
    """What I take for my spool is somebody's link into my home: nothing is written there."""
    home = shared_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    link = shared_path / "spool"
    link.symlink_to(home)
    os.chown(link, OTHER_USER, OTHER_USER, follow_symlinks=False)

    def start() -> None:
        store = open_store({"directory": str(link)}, "celery@a", Counters())
        assert isinstance(store, MemoryStore)

    run_as(NOBODY, start)
    assert not list(home.iterdir())
