"""Makes a library look as if it weren't installed, while another one is imported."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from threading import get_ident


@contextmanager
def hidden_modules(*libraries: str) -> Generator[None]:
    """Make imports of these modules fail, in this thread only.

    A module that the process has imported already is not affected. What is imported meanwhile must
    be able to do without: it looks for the library once, at its import, and never sees it again.
    """
    finder = _HidingFinder(frozenset(libraries))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _HidingFinder:
    """The import system asks it first for each module that is not imported yet."""

    def __init__(self, libraries: frozenset[str]) -> None:
        self._libraries = libraries
        self._thread = get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        del path, target
        if name in self._libraries and get_ident() == self._thread:
            raise ModuleNotFoundError(f"{name} is left out here", name=name)
