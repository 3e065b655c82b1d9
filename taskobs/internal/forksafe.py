"""What objects do when their process forks: one registry, called in a defined order.

A forked child has a copy of everything and one thread. Locks that another thread held stay held,
sockets are shared with the parent, queues hold what the parent will send. So an object that has
any of these starts anew in the child, before anything else runs there.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from enum import IntEnum
from typing import Final, Protocol, cast


class ForkStep(IntEnum):
    """When an object's turn is; within a step, the one that was added first comes first."""

    LOCKS = 0
    """Locks that the steps after it may take."""
    EXPORT = 1
    """What sends telemetry: processors, Sentry clients, the client of the relay."""
    SESSION = 2
    """What looks at these, and decides what is used in the child."""


class ForkAware(Protocol):
    """Has something to do in a forked child."""

    def after_fork(self) -> None:
        """Start anew. Another thread may have held any lock, so none is taken that isn't new."""


class ForkBlocking(ForkAware, Protocol):
    """Also lets a fork wait, for a bounded time."""

    def before_fork(self) -> None:
        """Prepare for a fork, in the parent."""

    def after_fork_in_parent(self) -> None:
        """Undo what ``before_fork`` did."""


class _Registry:
    def __init__(self) -> None:
        # By id. Each change is one step of a dict, which is atomic: threads need no lock here, and
        # a lock could not be taken in a child.
        self._entries: dict[int, tuple[ForkStep, weakref.ref[ForkAware]]] = {}
        self._watching = False

    def add(self, instance: ForkAware, step: ForkStep) -> None:
        number = id(instance)
        # The callback comes before the id can be another object's.
        self._entries[number] = step, weakref.ref(instance, lambda _: self._forget(number))
        if not self._watching and hasattr(os, "register_at_fork"):
            self._watching = True  # once: the interpreter offers no way to unregister
            os.register_at_fork(
                before=self._before,
                after_in_parent=self._in_parent,
                after_in_child=self._in_child,
            )

    def remove(self, instance: ForkAware) -> None:
        self._forget(id(instance))

    def _forget(self, number: int) -> None:
        self._entries.pop(number, None)

    def _all(self) -> list[ForkAware]:
        # ``sorted`` is stable, so those of one step keep the order in which they were added.
        entries = sorted(self._entries.copy().values(), key=lambda entry: entry[0])
        return [instance for _, ref in entries if (instance := ref()) is not None]

    def _all_blocking(self) -> list[ForkBlocking]:
        # Not by `isinstance`: protocols that allow it take long to make, in each process.
        return [cast("ForkBlocking", one) for one in self._all() if hasattr(one, "before_fork")]

    def _before(self) -> None:
        # The last first, as with locks: what is taken first is released last.
        _run([one.before_fork for one in reversed(self._all_blocking())])

    def _in_parent(self) -> None:
        _run([one.after_fork_in_parent for one in self._all_blocking()])

    def _in_child(self) -> None:
        _run([one.after_fork for one in self._all()])


def _run(calls: list[Callable[[], None]]) -> None:
    """Make all calls in order, also after one that raises; the interpreter reports the error."""
    with ExitStack() as stack:
        for call in reversed(calls):
            stack.callback(call)


_registry: Final = _Registry()


def add(instance: ForkAware, step: ForkStep) -> None:
    """Call ``instance.after_fork`` in each forked child from now on; twice is once.

    The registry holds no reference that keeps the object alive.
    """
    _registry.add(instance, step)


def remove(instance: ForkAware) -> None:
    """Call it no more."""
    _registry.remove(instance)
