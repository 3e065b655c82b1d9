"""Receivers that are connected while their signal is being sent."""

from __future__ import annotations

from celery.utils.dispatch import Signal

from taskobs.celery.connect import connect

UID = "taskobs.test"


class Heard:
    def __init__(self) -> None:
        self.calls: list[dict[str, object]] = []

    def __call__(self, **named: object) -> None:
        self.calls.append(named)


def test_whoever_connects_within_a_receiver_hears_what_is_being_sent() -> None:
    """I call `taskobs.init()` in a receiver of `worker_init`, and it knows of the worker."""
    signal, heard = Signal(providing_args=["instance"]), Heard()

    def set_up(**_: object) -> None:
        connect(signal, heard, UID)

    signal.connect(set_up, weak=False)
    signal.send("first", instance=1)
    assert heard.calls == [{"signal": signal, "sender": "first", "instance": 1}]
    signal.send("second", instance=2)
    assert [call["sender"] for call in heard.calls] == ["first", "second"]


def test_another_signal_that_is_being_sent_is_not_heard() -> None:
    """What a receiver of `worker_init` connects to hears nothing of another signal."""
    signal, other, heard = Signal(), Signal(), Heard()

    def set_up(**_: object) -> None:
        connect(other, heard, UID)

    signal.connect(set_up, weak=False)
    signal.send("first")
    assert not heard.calls


def test_connecting_twice_within_a_receiver_hears_it_once() -> None:
    """A second set-up in the same receiver doubles nothing."""
    signal, heard = Signal(), Heard()

    def set_up(**_: object) -> None:
        connect(signal, heard, UID)
        connect(signal, heard, UID)

    signal.connect(set_up, weak=False)
    signal.send("first")
    assert len(heard.calls) == 1
