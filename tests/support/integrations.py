"""What each ``sentry_sdk.init()`` would look for anew: libraries that it could integrate, git."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from typing import Any

_MODULE = "sentry_sdk.integrations"


def import_missing_ones_once() -> None:
    """Have Sentry no longer import what failed before for want of a library that isn't here.

    Most of its 40 fail so, and a module whose import failed isn't kept: it is run anew each time,
    which was nearly all of the time of an ``init()``. Nothing changes where Sentry isn't loaded,
    or where a release finds its integrations in another way.
    """
    module: Any = sys.modules.get(_MODULE)
    names = getattr(module, "_AUTO_ENABLING_INTEGRATIONS", None)
    every = getattr(module, "iter_default_integrations", None)
    if names is not None and every is not None and not isinstance(every, _Integrations):
        module.iter_default_integrations = _Integrations(names, every, module.DidNotEnable)


def ask_git_once() -> None:
    """Have Sentry ask git once for the release: each ``init()`` without one starts a process."""
    module: Any = sys.modules.get("sentry_sdk.utils")
    ask = getattr(module, "get_git_revision", None)
    if ask is not None and not hasattr(ask, "cache_info"):
        module.get_git_revision = cache(ask)


class _Integrations:
    """What Sentry calls for the classes of its integrations."""

    def __init__(
        self, names: list[str], every: Callable[[bool], Iterator[Any]], refusal: type[Exception]
    ) -> None:
        self._names = names
        self._every = every
        self._refusal = refusal
        self._lacks: dict[str, str] = {}

    def __call__(self, with_auto_enabling_integrations: bool) -> Iterator[Any]:  # noqa: FBT001  # as Sentry calls it
        yield from self._every(False)  # noqa: FBT003
        for name in self._names if with_auto_enabling_integrations else ():
            if name in self._lacks and self._lacks[name] not in sys.modules:
                continue
            path, _, attribute = name.rpartition(".")
            try:
                yield getattr(import_module(path), attribute)
            except (self._refusal, SyntaxError) as error:
                library = _missing(error)
                if library is not None:
                    self._lacks[name] = library


def _missing(error: BaseException) -> str | None:
    """Return the library whose import has failed, if it isn't installed: a test may hide others."""
    cause = error.__context__
    library = cause.name if isinstance(cause, ImportError) else None
    return None if library is None or _installed(library) else library


def _installed(library: str) -> bool:
    """Look for a package, such as ``google.genai``, without what ``sys.modules`` says of it."""
    spec, paths, name = None, None, ""
    for part in library.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, paths)
        if spec is None:
            return False
        paths = spec.submodule_search_locations
    return True
