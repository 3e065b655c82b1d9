"""Keeping a library out of what another one imports."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from threading import get_ident


@contextmanager
def hidden_modules(*libraries: str) -> Generator[None]:
    """Make libraries look as if they weren't installed, to imports of this thread alone.

    One that the process has imported already stays what it is, and other threads import as ever.
    What tries one of them meanwhile must do without, and so must be able to: a module that looks
    for it when it is imported will never see it again.
    """
    finder = _HidingFinder(frozenset(libraries))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _HidingFinder:
    """Asked for every module that is not imported yet; others are left to the finders after it."""

    def __init__(self, libraries: frozenset[str]) -> None:
        self._libraries = libraries
        self._thread = get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        del path, target
        if name in self._libraries and get_ident() == self._thread:
            raise ModuleNotFoundError(f"{name} is left out here", name=name)
