"""Late imports that a fork in another thread waits for.

The import system has a lock for each module. A child that is forked while another thread of its
parent imports a module inherits the lock in its locked state and without the thread that would
release it: the child hangs at its own import of that module.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib import import_module
from threading import RLock
from types import ModuleType
from typing import Final

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep

_PATIENCE: Final = 5.0
"""Seconds that a fork waits for an import at most; then it goes on."""


def import_locked(name: str, *beside: str) -> ModuleType:
    """Import a module, and those of ``beside`` that exist before it; forks wait meanwhile."""
    with _forks.lock:
        for other in beside:
            with suppress(ImportError):  # other releases need others
                import_module(other)
        return import_module(name)


@contextmanager
def importing(*, wait: bool = True) -> Generator[bool]:
    """Import in one thread at a time; forks wait meanwhile. Yields whether it is this thread.

    Don't ``wait`` within an import: the other thread may need the module that this one imports.
    """
    lock = _forks.lock
    alone = lock.acquire(timeout=_PATIENCE) if wait else lock.acquire(blocking=False)
    try:
        yield alone
    finally:
        if alone:
            lock.release()


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
