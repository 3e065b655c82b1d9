"""Connecting to Celery's signals, also from within a receiver of the same signal."""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from celery.utils.dispatch import Signal

Receiver = Callable[..., object]

_PLACE: Final = ".place"
_SEND: Final = Signal.send.__code__


def connect(signal: Signal, receiver: Receiver, uid: str) -> None:
    """Connect a receiver; if the signal is being sent on this thread right now, call it too.

    Celery lists a signal's receivers before it calls the first of them (seen in 5.3 to 5.7). So
    whoever connects within one, as an app does that sets telemetry up in ``worker_init`` or
    ``task_prerun``, would miss what is being sent: the start of this worker, or of this run.
    """
    if any(key[0] == uid for key, _ in signal.receivers or ()):
        return  # it is among those that are called
    signal.connect(receiver, weak=False, dispatch_uid=uid)
    _take_place(signal, uid)
    sent = _being_sent(signal)
    if sent is not None:
        receiver(signal=signal, **sent)


def reserve(signal: Signal, uid: str) -> None:
    """Keep a place for a receiver that ``connect`` connects later.

    Receivers are called in the order in which they were connected. So those of the app that are
    connected meanwhile are called after ours, as if that had been connected now.
    """
    signal.connect(_nothing, weak=False, dispatch_uid=uid + _PLACE)


def release(signal: Signal, uid: str) -> None:
    """Give a place up that was not taken."""
    signal.disconnect(dispatch_uid=uid + _PLACE)


def _nothing(**_: object) -> None: ...


def _take_place(signal: Any, uid: str) -> None:
    with signal.lock:
        uids = [key[0] for key, _ in signal.receivers]
        if uid + _PLACE in uids:
            # In one step: another thread may be listing the receivers without the lock.
            receivers = list(signal.receivers)
            receivers[uids.index(uid + _PLACE)] = receivers.pop(uids.index(uid))
            signal.receivers = receivers
            signal.sender_receivers_cache.clear()


def _being_sent(signal: Signal) -> dict[str, Any] | None:
    """Return the sender and the arguments of a signal that is sent further up on the stack."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        if frame.f_code is _SEND and frame.f_locals.get("self") is signal:
            return {"sender": frame.f_locals.get("sender"), **frame.f_locals.get("named", {})}
        frame = frame.f_back
    return None
