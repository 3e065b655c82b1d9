"""How old what waits in a spool is, when somebody sets the wall clock."""

# A few tests look inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from taskobs.relay.counters import DROPPED, Counters
from taskobs.relay.storage.base import TOO_OLD
from taskobs.relay.storage.spool import clock as spool_clock
from taskobs.relay.storage.spool.store import Spool, SpoolConfig
from tests.support.pids import NO_PROCESS
from tests.support.spool import item, look

DAY = 86_400.0
SMALL = 1024 * 1024


class Machine:
    """The clocks of a machine, which somebody sets, and which is booted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.ticks, self.boot = time.time(), 1_000.0, "first"
        monkeypatch.setattr("time.time", lambda: self.wall)
        monkeypatch.setattr(spool_clock, "_ticks", lambda: self.ticks)
        monkeypatch.setattr(spool_clock, "boot_id", lambda: self.boot)

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.ticks += seconds

    def reboot(self, after: float, *, shown: float | None = None) -> None:
        """Be off for so many seconds; the wall clock shows others, if it is wrong."""
        self.wall += after if shown is None else shown
        self.ticks, self.boot = 5.0, "second"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> SpoolConfig:
    return SpoolConfig(tmp_path / "spool", "celery@a", age=DAY, worker_pid=os.getpid())


def waiting(spool: Spool) -> list[bytes]:
    found: list[bytes] = []
    while spool.pending("span").items:
        batch = spool.take("span", 100, SMALL, 0)
        found += [one.item.payload for one in batch]
        spool.done(batch)
    return found


@pytest.mark.parametrize("days", [-3, 3])
def test_a_clock_that_is_set_empties_no_spool(
    config: SpoolConfig, machine: Machine, days: int
) -> None:
    """The time server corrects my clock by days during an outage: what waits is sent."""
    counters = Counters()
    with closing(Spool(counters, config)) as spool:
        spool.append([item(b"1"), item(b"2")])
        batch = spool.take("span", 1, SMALL, 0)
        machine.wall += days * DAY
        look(spool)
        assert not spool.is_too_old(batch[0])
        spool.put_back(batch)
    with closing(Spool(counters, config)) as spool:
        assert waiting(spool) == [b"1", b"2"]
    assert not counters.total(DROPPED)


@pytest.mark.parametrize("days", [-3, 0, 3])
def test_what_is_too_old_is_dropped_though_the_clock_was_set(
    config: SpoolConfig, machine: Machine, days: int
) -> None:
    """A day later nobody wants it, whatever the clock shows."""
    counters = Counters()
    with closing(Spool(counters, config)) as spool:
        spool.append([item(b"1")])
        machine.wait(DAY / 2)
        machine.wall += days * DAY
        spool.append([item(b"2")])
    machine.wait(DAY / 2 + 1)
    with closing(Spool(counters, config)) as spool:
        assert waiting(spool) == [b"2"]
    assert counters.counts()[DROPPED] == {("span", TOO_OLD): 1}


@pytest.mark.parametrize("shown", [-3 * DAY, 60.0, 300 * DAY])
def test_a_clock_that_is_wrong_after_a_reboot_empties_no_spool(
    config: SpoolConfig, machine: Machine, shown: float
) -> None:
    """The machine has no battery, or another idea of the year: what just came is sent."""
    with closing(Spool(Counters(), config)) as spool:
        spool.append([item(b"1")])
    machine.reboot(60.0, shown=shown)
    with closing(Spool(Counters(), config)) as spool:
        assert waiting(spool) == [b"1"]


def test_the_time_that_a_machine_was_off_counts(config: SpoolConfig, machine: Machine) -> None:
    """It was off for days: what was half as old as the spool keeps, is too old in half a day."""
    counters = Counters()
    with closing(Spool(counters, config)) as spool:
        spool.append([item(b"old")])
        machine.wait(DAY * 0.6)
        spool.append([item(b"young")])
    machine.reboot(5 * DAY)
    with closing(Spool(counters, config)) as spool:
        assert waiting(spool) == [b"young"]
    assert counters.total(DROPPED) == 1


def test_a_kill_costs_half_a_minute_of_the_clock_at_most(
    config: SpoolConfig, machine: Machine
) -> None:
    """The machine crashes: the clock goes on from when it was last kept."""
    spool = Spool(Counters(), config)
    spool.append([item(b"1")])
    machine.wait(DAY * 0.7)
    look(spool)
    spool._in_use.close()  # as a crash does: nothing else is written
    machine.reboot(DAY * 0.4)
    with closing(Spool(Counters(), config)) as later:
        assert waiting(later) == []


@pytest.mark.parametrize(("off", "kept"), [(0.3, [b"old", b"young"]), (0.5, [b"young"])])
def test_what_is_taken_over_is_as_old_as_it_was(
    config: SpoolConfig, machine: Machine, off: float, kept: list[bytes]
) -> None:
    """Another worker's spool has a clock of its own: its spans don't get younger by moving."""
    other = config._replace(worker="other", worker_pid=NO_PROCESS)
    counters = Counters()
    with closing(Spool(counters, other)) as spool:
        spool.append([item(b"old")])
        machine.wait(DAY * 0.6)
        spool.append([item(b"young")])
    machine.wait(DAY * off)
    with closing(Spool(counters, config)) as spool:
        assert waiting(spool) == kept
    assert counters.total(DROPPED) == 2 - len(kept)
    assert not (config.directory / "other.spool").exists()


def test_the_machines_own_clocks_say_how_long_it_was(config: SpoolConfig) -> None:
    """Without any pretence: what came a moment ago is a moment old, over a restart too."""
    with closing(Spool(Counters(), config)) as spool:
        spool.append([item(b"1")])
        before = spool._rows.clock.now()
    with closing(Spool(Counters(), config)) as spool:
        assert 0.0 < spool._rows.clock.now() - before < 60.0
        [stored] = spool.take("span", 1, SMALL, 0)
        assert not spool.is_too_old(stored)


def test_where_boots_can_not_be_told_apart_the_wall_clock_counts_within_bounds(
    machine: Machine,
) -> None:
    """There is no /proc: a restart counts as a reboot, whose time is bounded."""
    machine.boot = ""
    reading = spool_clock.SpoolClock(None, 100.0).read()
    machine.wait(50.0)
    assert reading.until_now(100.0) == 50.0
    machine.wall += DAY
    assert reading.until_now(100.0) == 100.0
    machine.wall -= 2 * DAY
    assert reading.until_now(100.0) == 0.0
