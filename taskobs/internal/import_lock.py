"""Imports that wait until a process needs them, and that no fork of another thread interrupts.

A child that is forked while another thread of its parent imports a module finds the module half
imported, and its lock held for ever: the child then hangs at its own import of it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from threading import RLock
from types import ModuleType
from typing import Final

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
    _forks.watch()


class _Forks:
    """The lock of the imports, and what happens to it at a fork."""

    def __init__(self) -> None:
        self.lock = RLock()
        self._watched = False
        self._held = False

    def watch(self) -> None:
        """Register, once: the interpreter offers no way to unregister."""
        if not self._watched and hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child
            )
            self._watched = True

    def _before(self) -> None:
        self._held = self.lock.acquire(timeout=_PATIENCE)

    def _in_parent(self) -> None:
        if self._held:
            self.lock.release()

    def _in_child(self) -> None:
        self.lock = RLock()  # the one that was inherited may be another thread's


_forks: Final = _Forks()
