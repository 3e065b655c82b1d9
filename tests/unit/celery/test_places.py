"""The places that are kept for our receivers."""

from __future__ import annotations

from celery import signals
from celery.utils.dispatch import Signal

from taskobs.celery.connect import connect, release, reserve
from taskobs.celery.places import PLACES
from taskobs.otel.task_spans import shared_task_signals


def test_there_is_a_place_for_each_receiver() -> None:
    """Whatever I connect after `init()` is called after taskobs, at all signals of a task."""
    parts = shared_task_signals()._parts  # pyright: ignore[reportPrivateUsage]
    ours = {(signal, one.__name__) for part in parts for signal, one in part.receivers}
    assert set(PLACES) == ours
    assert all(isinstance(signal, Signal) for signal, _ in PLACES)
    assert signals.task_prerun in {signal for signal, _ in PLACES}


def test_a_reserved_place_is_taken() -> None:
    """A receiver of mine that is connected between the two is called second."""
    signal, heard = Signal(), list[str]()

    def ours(**_: object) -> None:
        heard.append("ours")

    def mine(**_: object) -> None:
        heard.append("mine")

    reserve(signal, "taskobs.ours")
    signal.connect(mine, weak=False)
    signal.send(None)
    connect(signal, ours, "taskobs.ours")
    signal.send(None)
    assert heard == ["mine", "ours", "mine"]
    assert len(signal.receivers) == 2


def test_a_place_that_is_given_up_is_gone() -> None:
    """After `close()` nothing is left among the receivers."""
    signal = Signal()
    reserve(signal, "taskobs.ours")
    release(signal, "taskobs.ours")
    release(signal, "taskobs.ours")
    assert not signal.receivers
