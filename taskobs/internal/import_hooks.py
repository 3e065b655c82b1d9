"""Calls a function when a module is imported, or one of several, if it ever is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final

import wrapt

_wanted: Final[dict[str, list[Callable[[], object]]]] = {}
_complete: Final[set[str]] = set()
"""Modules whose hooks have been called: the import system calls them complete only after that."""


def when_imported(module: str, then: Callable[[], object]) -> Callable[[], None]:
    """Call ``then`` when a module has been imported; at once, if it has been already.

    It is called on the importing thread, before the import returns; what it raises, the import
    raises. Returns a function that cancels it.
    """
    waiting = _watch(module)
    forget = partial(_forget, waiting, then)
    waiting.append(then)
    if module in sys.modules:
        try:
            then()
        except BaseException:
            forget()
            raise
    return forget


def _watch(module: str) -> list[Callable[[], object]]:
    """Register once for each module: wrapt has no way to unregister."""
    waiting = _wanted.get(module)
    if waiting is None:
        waiting = _wanted[module] = []
        if module not in sys.modules:
            # wrapt 1.14 raises KeyError for a module that has been imported, with a hook of
            # somebody's, and is gone again. There its next import goes unnoticed.
            with suppress(KeyError):
                wrapt.register_post_import_hook(partial(_call_waiting, module, waiting), module)
    return waiting


def _call_waiting(module: str, waiting: list[Callable[[], object]], _: object) -> None:
    _complete.add(module)
    for then in list(waiting):
        then()


def _forget(waiting: list[Callable[[], object]], then: Callable[[], object]) -> None:
    if then in waiting:
        waiting.remove(then)


class ImportWatch:
    """Calls a function when one of several modules has been imported, from ``install`` on.

    A library imports others of them in the course of its own import. So the function is called when
    none of them is being imported: what it does with one may need another one that is complete.
    """

    def __init__(self, modules: Collection[str], then: Callable[[], object]) -> None:
        self._modules = frozenset(modules)
        self._then = then
        self._undo = ExitStack()

    def install(self) -> None:
        """Watch; call the function at once if there is one of the modules already."""
        for module in self._modules - sys.modules.keys():
            self._undo.callback(when_imported(module, self.look))
        self.look()

    def remove(self) -> None:
        """Stop watching."""
        self._undo.close()

    def look(self) -> None:
        """Call the function if there is one of the modules, and none is being imported."""
        there = self._modules & sys.modules.keys()
        if there and not any(map(_is_being_imported, there - _complete)):
            self._then()


def _is_being_imported(module: str) -> bool:
    # Set by the import system on the module's spec (seen in Python 3.10 to 3.14).
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))
