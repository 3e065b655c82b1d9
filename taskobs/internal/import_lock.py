"""Imports that wait until a process needs them, and that no fork of another thread interrupts.

A child that is forked while another thread of its parent imports a module finds the module half
imported, and its lock held for ever: the child then hangs at its own import of it.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from threading import RLock
from types import ModuleType
from typing import Final

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep

_PATIENCE: Final = 5.0
"""Seconds that a fork waits for an import: a fork is never stopped."""


def import_locked(name: str, *beside: str) -> ModuleType:
    """Import a module, and first those ``beside`` it that are there; forks wait meanwhile."""
    with _forks.lock:
        for other in beside:
            with suppress(ImportError):  # other releases need others
                import_module(other)
        return import_module(name)


def watch_forks() -> None:
    """Have forks wait for imports from now on; call it before the first thread may import."""
    forksafe.add(_forks, ForkStep.LOCKS)


class _Forks:
    """The lock of the imports, and what happens to it at a fork."""

    def __init__(self) -> None:
        self.lock = RLock()
        self._held = False

    def before_fork(self) -> None:
        """Wait until no import is under way."""
        self._held = self.lock.acquire(timeout=_PATIENCE)

    def after_fork_in_parent(self) -> None:
        """Let imports go on."""
        if self._held:
            self.lock.release()

    def after_fork(self) -> None:
        """In the child: have a lock that nobody holds."""
        self.lock = RLock()


_forks: Final = _Forks()
