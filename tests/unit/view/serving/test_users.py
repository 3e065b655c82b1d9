"""When the page ends: after the last command and the last browser, and not before."""

from __future__ import annotations

import os

import pytest

from taskobs.internal import pids
from taskobs.view.serving.users import FIRST, NEXT, Users


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def of_old(_pid: int) -> int:
    """Tell that a process started long ago."""
    return 1


def no_process(_pid: int, _started: int) -> bool:
    """Stand for a process that has ended."""
    return False


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_first_command_has_time_to_come(clock: Clock) -> None:
    """The page is there before the command that it is for."""
    users = Users(0, clock)
    clock.now += FIRST - 1
    assert not users.ended()
    clock.now += 1
    assert users.ended()


def test_it_lasts_as_long_as_a_command_and_a_little_more(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I stop my worker and start it again, and the page is still there, with what it had."""
    users = Users(10, clock)
    assert users.attach(os.getpid(), "celery")
    clock.now += 100_000
    assert not users.ended()
    monkeypatch.setattr(pids, "alive", no_process)
    clock.now += 9
    assert not users.ended()
    clock.now += 1
    assert users.ended()


def test_it_lasts_as_long_as_a_browser_shows_it(clock: Clock) -> None:
    """My script has ended, and I still read its traces."""
    users = Users(10, clock)
    with users.browser():
        clock.now += 100_000
        assert not users.ended()
    clock.now += 9
    assert not users.ended()
    clock.now += 1
    assert users.ended()


def test_a_browser_has_time_to_ask_again(clock: Clock) -> None:
    """With ``--stay 0`` I load the page again, and it is still there; then I close the tab."""
    users = Users(0, clock)
    clock.now += FIRST
    with users.browser():
        assert not users.ended()
    clock.now += NEXT - 1
    assert not users.ended()
    clock.now += 1
    assert users.ended()


def test_a_page_that_ends_takes_no_command(clock: Clock) -> None:
    """A command that comes too late is told so, and starts a page of its own."""
    users = Users(0, clock)
    clock.now += FIRST
    assert users.ended()
    assert not users.attach(os.getpid(), "celery")


def test_a_process_that_took_over_an_id_is_not_the_command(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id of a command that has ended is another process's now, and the page still ends."""
    users = Users(0, clock)
    with monkeypatch.context() as earlier:
        earlier.setattr(pids, "start_time", of_old)
        users.attach(os.getpid(), "celery")
    assert users.commands() == []
