"""What a process has recorded leaves it though it does nothing more, and may be killed then."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import closing

import pytest

from taskobs.testing.receiver import Receiver
from tests.process.reporter import Reporter
from tests.support.relay_process import RelayProcess, wait_until_true

PATIENCE = 60.0
MEMORY = [
    pytest.param(
        True,
        id="memory",
        marks=pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create(2)"),
    ),
    pytest.param(False, id="socket"),
]


@pytest.fixture
def receiver() -> Generator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def dropped(relay: RelayProcess) -> int:
    """Sum what a relay has counted as dropped."""
    with closing(relay.worker()) as worker:
        counts: dict[str, dict[str, int]] = worker.status()["dropped"]
    return sum(number for reasons in counts.values() for number in reasons.values())


def telemetry(receiver: Receiver) -> int:
    return len(receiver.events) + len(receiver.spans)


def distinct(receiver: Receiver) -> set[str]:
    """Give the ids of what arrived: the first may have, and its relay died before it noted that."""
    return {event.event_id for event in receiver.events}


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize(
    ("what", "count", "size"),
    [("fail", 300, 8_000), ("trace", 4, 1_000_000)],
    ids=["fail", "trace"],
)
def test_an_idle_process_is_killed_when_all_has_left_it(
    receiver: Receiver, what: str, count: int, size: int, *, memory: bool
) -> None:
    """The relay stood still for a moment; my task is over, and its child does nothing more."""
    with (
        RelayProcess(receiver, memory=memory) as relay,
        Reporter(relay, receiver.dsn) as process,
    ):
        process.fail(1)
        assert receiver.wait_for(lambda r: len(r.events) == 1, PATIENCE)
        relay.signal(signal.SIGSTOP)
        getattr(process, what)(count, size=size)
        relay.signal(signal.SIGCONT)
        assert receiver.wait_for(lambda r: telemetry(r) == count + 1, PATIENCE), telemetry(receiver)
        process.kill()
        assert dropped(relay) == 0


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create(2)")
@pytest.mark.parametrize(("count", "size"), [(300, 8_000), (60, 200_000)])
def test_a_process_that_is_killed_while_the_relay_stands_still(
    receiver: Receiver, count: int, size: int
) -> None:
    """What arrives and what is counted as dropped is what was recorded: exactly."""
    with RelayProcess(receiver, memory=True) as relay, Reporter(relay, receiver.dsn) as process:
        process.fail(1)
        assert receiver.wait_for(lambda r: len(r.events) == 1, PATIENCE)
        relay.signal(signal.SIGSTOP)
        process.fail(count, size=size)
        process.kill()
        relay.signal(signal.SIGCONT)
        # Not `wait_for`, which looks when something arrives: a drop may be counted after that.
        wait_until_true(lambda: len(receiver.events) + dropped(relay) > count)
        assert len(receiver.events) + dropped(relay) == count + 1


@pytest.mark.parametrize("memory", MEMORY)
def test_an_idle_process_hears_that_the_relay_was_replaced(
    receiver: Receiver, *, memory: bool
) -> None:
    """The relay is killed with what it had not sent: the next one gets it from an idle process."""
    with (
        RelayProcess(receiver, memory=memory) as relay,
        Reporter(relay, receiver.dsn) as process,
    ):
        process.fail(1)
        assert receiver.wait_for(lambda r: len(r.events) == 1, PATIENCE)
        relay.signal(signal.SIGSTOP)
        process.fail(20, size=10_000)
        relay.restart()
        assert receiver.wait_for(lambda r: len(distinct(r)) == 21, PATIENCE), receiver.events
        process.kill()
        assert dropped(relay) == 0
