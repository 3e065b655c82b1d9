"""Notifies a session of its process's role, its forks and its end."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from billiard.util import Finalize
from celery import signals
from celery.concurrency import get_implementation

from taskobs.celery.connect import connect
from taskobs.internal.termination import TerminationHook, ignore_uwsgi_signals

if TYPE_CHECKING:
    from taskobs.celery.roles import Role

_UID: Final = "taskobs.process."


def runs_no_tasks(worker: Any) -> bool:
    """Tell whether a worker (Celery's object) runs all tasks in the processes of its pool."""
    pool = getattr(worker, "pool_cls", None)
    if isinstance(pool, str):
        pool = get_implementation(pool)
    return bool(getattr(pool, "uses_semaphore", False))


class ProcessListener(Protocol):
    """Receives the events of a process."""

    def became(self, role: Role, worker: Any = None) -> None:
        """Celery's signals gave the role of this process; ``worker`` is Celery's object."""

    def worker_ended(self) -> None:
        """The worker in this process has stopped; the process may execute another program."""

    def ready(self) -> None:
        """The worker starts to consume, or beat to check its schedule."""

    def process_ending(self) -> None:
        """The process is ending; what isn't sent in bounded time is lost."""


class ProcessSignals:
    """Calls a listener, from ``subscribe`` to ``unsubscribe``, for each event of this process."""

    def __init__(self, listener: ProcessListener) -> None:
        self._listener = listener
        self._worker_pid: int | None = None
        self._at_exit: Any = None
        self._termination = TerminationHook(listener.process_ending)
        self._is_celerys = False
        """Whether this is a worker, a pool child or beat, whose POSIX signals Celery handles."""
        self._receivers: tuple[tuple[Any, Callable[..., None]], ...] = (
            (signals.worker_init, self._worker_started),
            (signals.celeryd_after_setup, self._worker_set_up),
            (signals.worker_ready, self._worker_ready),
            (signals.worker_shutdown, self._worker_stopped),
            (signals.worker_process_init, self._child_started),
            (signals.worker_process_shutdown, self._child_ending),
            (signals.beat_init, self._beat_started),
            (signals.beat_embedded_init, self._embedded_beat_started),
        )

    def subscribe(self) -> None:
        """Connect to Celery's signals."""
        for signal, receiver in self._receivers:
            connect(signal, receiver, _UID + receiver.__name__)

    def watch_end(self) -> None:
        """Also call the listener at the interpreter's end, before all exit hooks so far.

        After a second call, it is also called before those that were registered meanwhile. The
        first one stays: while the hooks run, the interpreter calls none that is registered then.
        """
        atexit.register(self._exiting)
        if not self._is_celerys:
            self._termination.install()

    def unsubscribe(self) -> None:
        """Disconnect from all signals and hooks."""
        for signal, receiver in self._receivers:
            signal.disconnect(dispatch_uid=_UID + receiver.__name__)
        atexit.unregister(self._exiting)
        self._termination.remove()
        if self._at_exit is not None:
            self._at_exit.cancel()

    def _exiting(self) -> None:
        ignore_uwsgi_signals()
        self._listener.process_ending()

    def _celery_handles_signals(self) -> None:
        self._is_celerys = True
        self._termination.remove()

    def _became(self, name: Literal["WORKER", "POOL_CHILD", "BEAT"], worker: Any = None) -> None:
        from taskobs.celery.roles import Role  # for which a producer has no use

        self._listener.became(Role[name], worker)

    def _worker_started(self, *, sender: Any = None, **_: Any) -> None:
        self._celery_handles_signals()
        self._worker_pid = os.getpid()
        self._became("WORKER", sender)

    def _worker_set_up(self, *, instance: Any = None, **_: Any) -> None:
        self._became("WORKER", instance)

    def _worker_ready(self, **_: Any) -> None:
        self._listener.ready()

    def _worker_stopped(self, **_: Any) -> None:
        self._listener.worker_ended()

    def _child_started(self, **_: Any) -> None:
        self._celery_handles_signals()  # a spawned child did not inherit the worker's state
        if os.getpid() != self._worker_pid:  # the solo pool sends this in the worker itself
            self._became("POOL_CHILD")

    def _child_ending(self, **_: Any) -> None:
        self._listener.process_ending()

    def _beat_started(self, *, sender: Any = None, **_: Any) -> None:
        self._celery_handles_signals()
        self._became("BEAT")
        _at_first_tick(sender, self._listener.ready)

    def _embedded_beat_started(self, **_: Any) -> None:
        # A process of billiard ends by os._exit, without atexit and without a signal.
        self._at_exit = Finalize(None, self._listener.process_ending, exitpriority=0)


def _at_first_tick(service: Any, action: Callable[[], object]) -> None:
    """Call ``action`` when beat first checks its schedule.

    Beat has no signal for that, and ``beat_init`` is too early: the app's own receivers, which
    may set up Sentry, are called after ours.
    """
    scheduler: Any = getattr(service, "scheduler", None)

    def tick(*args: Any, **kwargs: Any) -> Any:
        del scheduler.tick  # reveals the method of the class again
        action()
        return scheduler.tick(*args, **kwargs)

    try:
        scheduler.tick = tick
    except AttributeError:  # no scheduler, or one with slots
        action()


def at_process_end(action: Callable[[], object]) -> None:
    """Have ``action`` called when this process ends, if it is a child of ``multiprocessing``.

    ``atexit`` serves all other processes. Call it once in each process, and not at its fork:
    multiprocessing empties the list of what is called at the child's start.
    """
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, action, exitpriority=0)
