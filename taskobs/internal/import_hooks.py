"""Calls a function when a module is imported, if it ever is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Final

import wrapt

_wanted: Final[dict[str, list[Callable[[], object]]]] = {}


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
            wrapt.register_post_import_hook(partial(_call_waiting, waiting), module)
    return waiting


def _call_waiting(waiting: list[Callable[[], object]], _: object) -> None:
    for then in list(waiting):
        then()


def _forget(waiting: list[Callable[[], object]], then: Callable[[], object]) -> None:
    if then in waiting:
        waiting.remove(then)
