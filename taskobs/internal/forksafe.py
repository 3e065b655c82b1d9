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
from typing import Final, Protocol, runtime_checkable


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


@runtime_checkable
class ForkBlocking(Protocol):
    """Also lets a fork wait, for a bounded time."""

    def before_fork(self) -> None:
        """Prepare for a fork, in the parent."""

    def after_fork_in_parent(self) -> None:
        """Undo what ``before_fork`` did."""


class _Registry:
    def __init__(self) -> None:
        self._owners: list[tuple[ForkStep, weakref.ref[ForkAware]]] = []
        self._watching = False

    def add(self, owner: ForkAware, step: ForkStep) -> None:
        self.remove(owner)
        # A new list, never a changed one: a fork in another thread sees the old or the new list.
        owners = [*self._living(), (step, weakref.ref(owner))]
        self._owners = sorted(owners, key=lambda one: one[0])  # stable, so in order of addition
        if not self._watching and hasattr(os, "register_at_fork"):
            self._watching = True  # once: the interpreter offers no way to unregister
            os.register_at_fork(
                before=self._before,
                after_in_parent=self._in_parent,
                after_in_child=self._in_child,
            )

    def remove(self, owner: ForkAware) -> None:
        self._owners = [one for one in self._living() if one[1]() is not owner]

    def _living(self) -> list[tuple[ForkStep, weakref.ref[ForkAware]]]:
        return [one for one in self._owners if one[1]() is not None]

    def _all(self) -> list[ForkAware]:
        return [owner for _, ref in self._owners if (owner := ref()) is not None]

    def _before(self) -> None:
        # The last first, as with locks: what is taken first is released last.
        _run([one.before_fork for one in reversed(self._all()) if isinstance(one, ForkBlocking)])

    def _in_parent(self) -> None:
        _run([one.after_fork_in_parent for one in self._all() if isinstance(one, ForkBlocking)])

    def _in_child(self) -> None:
        _run([one.after_fork for one in self._all()])


def _run(calls: list[Callable[[], None]]) -> None:
    """Make all calls in order, also after one that raises; the interpreter reports the error."""
    with ExitStack() as stack:
        for call in reversed(calls):
            stack.callback(call)


_registry: Final = _Registry()


def add(owner: ForkAware, step: ForkStep) -> None:
    """Call ``owner.after_fork`` in each forked child from now on; twice is once.

    The registry holds no reference that keeps the owner alive.
    """
    _registry.add(owner, step)


def remove(owner: ForkAware) -> None:
    """Call it no more."""
    _registry.remove(owner)
