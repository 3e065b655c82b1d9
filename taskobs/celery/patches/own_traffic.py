"""Suppresses spans of Celery's own traffic, where a library that it uses is instrumented.

That is what a worker does outside of runs (its consumer, timers, remote control), and how beat
reads its schedule. A worker's requests do the same for acknowledgements and events, see
``request.py``. Receivers of the signals that Celery sends meanwhile are the app's, so what they
call makes spans.
"""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from celery import signals
from celery.utils.dispatch import Signal

from taskobs.celery.active import current_run
from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.internal.import_hooks import when_imported
from taskobs.internal.wrapping import Patches
from taskobs.observers.own_traffic import lift_after_fork, lifted, suppressed

_BEAT: Final = "celery.beat"
_OF_WORKERS: Final = (
    *(signals.worker_ready, signals.worker_shutting_down, signals.heartbeat_sent),
    *(signals.task_received, signals.task_rejected, signals.task_unknown),
)
"""Signals that a worker sends in the course of what is wrapped, and looks up at each send."""


class WorkerTraffic:
    """Wraps what talks to the broker in a worker's main process, from ``install`` to ``remove``."""

    def __init__(self) -> None:
        self._patches = Patches()

    def install(self) -> None:
        """Wrap it; a consumer that runs already is covered once it reconnects."""
        # They are modules of the worker, which other processes don't load.
        from celery.worker.consumer import Consumer
        from celery.worker.pidbox import gPidbox
        from kombu.asynchronous.hub import Hub
        from kombu.asynchronous.timer import Entry
        from kombu.message import Message

        forksafe.add(self, ForkStep.SESSION)
        for target, name in (
            *((Consumer, "start"), (Consumer, "stop"), (Consumer, "shutdown")),
            (gPidbox, "loop"),  # a greenlet of its own, with gevent and eventlet
            (Entry, "__call__"),  # without Celery's event loop, timers have a thread of their own
            # Events of tasks that end while a worker stops, after its consumer has stopped.
            (Hub, "close"),
        ):
            self._patches.wrap(target, name, _call_suppressed)
        for name in ("ack", "reject"):  # of such tasks, in a thread of the pool's (seen in 5.7)
            self._patches.wrap(Message, name, _call_suppressed_outside_of_runs)
        _lift_in(_OF_WORKERS)

    def remove(self) -> None:
        """Unwrap it."""
        forksafe.remove(self)
        self._patches.remove()
        _no_longer_in(_OF_WORKERS)

    def after_fork(self) -> None:
        """In a forked child: it has the context of the thread that forked it."""
        lift_after_fork()


class BeatTraffic:
    """Wraps beat's loop once its module is imported, from ``install`` to ``remove``."""

    def __init__(self) -> None:
        self._patches = Patches()
        self._forget: Callable[[], None] | None = None

    def install(self) -> None:
        """Wrap it."""
        self._forget = when_imported(_BEAT, self._wrap)

    def remove(self) -> None:
        """Unwrap it."""
        if self._forget is not None:
            self._forget()
        self._patches.remove()
        _no_longer_in([signals.beat_init])

    def _wrap(self) -> None:
        self._patches.wrap(sys.modules[_BEAT].Service, "start", _call_suppressed)
        _lift_in([signals.beat_init])


def _call_suppressed(
    call: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    with suppressed():
        return call(*args, **kwargs)


def _call_suppressed_outside_of_runs(
    call: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if current_run() is not None:  # a task that consumes messages of the app's own
        return call(*args, **kwargs)
    with suppressed():
        return call(*args, **kwargs)


def _lift_in(sent: Iterable[Signal]) -> None:
    """Have the receivers of these signals run in a context in which libraries make spans."""
    for signal in sent:
        vars(signal)["send"] = _lifting(signal.send)


def _no_longer_in(sent: Iterable[Signal]) -> None:
    for signal in sent:
        vars(signal).pop("send", None)  # reveals the method of the class again


def _lifting(send: Callable[..., Any]) -> Callable[..., Any]:
    def send_lifted(*args: Any, **kwargs: Any) -> Any:
        with lifted():
            return send(*args, **kwargs)

    return send_lifted
