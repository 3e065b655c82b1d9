"""Calls a function when a module is imported, or one of several, if it ever is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.machinery import ModuleSpec
from threading import get_ident
from types import ModuleType
from typing import Any, Final, cast

_wanted: Final[dict[str, list[Callable[[], object]]]] = {}
_complete: Final[set[str]] = set()
"""Modules whose hooks have been called: the import system calls them complete only after that."""


def when_imported(module: str, then: Callable[[], object]) -> Callable[[], None]:
    """Call ``then`` when a module has been imported; at once, if it has been already.

    It is called on the importing thread, before the import returns; what it raises, the import
    raises. Returns a function that cancels it.
    """
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    waiting = _wanted.setdefault(module, [])
    forget = partial(_forget, waiting, then)
    waiting.append(then)
    if module in sys.modules:
        try:
            then()
        except BaseException:
            forget()
            raise
    return forget


def _call_waiting(module: str) -> None:
    _complete.add(module)
    for then in list(_wanted.get(module, ())):
        then()


def _forget(waiting: list[Callable[[], object]], then: Callable[[], object]) -> None:
    if then in waiting:
        waiting.remove(then)


class _Finder:
    """Finds modules that are waited for as the other finders do, with a loader of ours around."""

    def __init__(self) -> None:
        self._searches: set[tuple[int, str]] = set()
        """What is searched for by which thread: another finder may ask all of them, too."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a module's spec if somebody waits for it."""
        search = get_ident(), name
        reloads = target is not None
        if reloads or not _wanted.get(name) or search in self._searches:
            return None
        self._searches.add(search)
        try:
            return self._found(name, path)
        finally:
            self._searches.discard(search)

    def _found(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec: Any = None
            if find is not None and finder is not self:
                spec = find(name, path)
            if spec is not None:
                # A loader without it is of a kind that Python 3.12 no longer knows.
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)
                return cast("ModuleSpec", spec)
        return None


class _Loader:
    """A module's loader, which calls those that wait for the module when it has loaded it."""

    def __init__(self, loader: Any) -> None:  # noqa: ANN401  # of any class
        self._loader = loader

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # as the loader has it
        if name == "_loader":  # of a copy that is being made: else this would call itself for ever
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module."""
        found: ModuleType | None = self._loader.create_module(spec)
        return found

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, to which its loader is the real one."""
        name, spec = module.__name__, module.__spec__
        module.__loader__ = self._loader
        if spec is not None:
            name, spec.loader = spec.name, self._loader
        self._loader.exec_module(module)
        _call_waiting(name)


_finder: Final = _Finder()


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
