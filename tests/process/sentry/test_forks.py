"""Sentry's client in a process that forks while events wait, or while its locks are held."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from taskobs.testing.receiver import Receiver

CHILD = Path(__file__).parent / "sentry_fork_script.py"


def messages(receiver: Receiver) -> list[str]:
    """Give the messages of all events that have arrived, sorted."""
    found: list[Any] = [event.data for event in receiver.events]
    return sorted(one.get("message") or one["logentry"]["message"] for one in found)


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_forked_children_send_their_own_events_and_only_those(
    receiver: Receiver, whose: str
) -> None:
    """The parent's queue is sent by the parent alone; each child's event arrives once."""
    receiver.behave("/api", delay=0.05)
    subprocess.run([sys.executable, CHILD, receiver.dsn, whose], check=True, timeout=120)
    parents = [f"parent {number}" for number in range(5)]
    children = [f"child {number}" for number in range(4)]
    assert messages(receiver) == sorted([*parents, *children])


def test_a_lock_held_at_the_fork_does_not_stop_the_child(receiver: Receiver) -> None:
    """Whatever another thread of the parent was doing, the child flushes and ends."""
    subprocess.run([sys.executable, CHILD, receiver.dsn, "locked"], check=True, timeout=120)
    assert messages(receiver) == ["child 0", "child 1", "child 2", "child 3"]
