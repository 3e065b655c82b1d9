"""Check the value of ``instrument``: see ``taskobs.config.checks``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Final, cast

from taskobs.config.checks import SWITCH, Refused, ValueCheck, shown
from taskobs.internal.instrumentors import OF_TASKOBS, installed, normalized

_PACKAGE: Final = "opentelemetry-instrumentation-"

Written = Callable[[list[str]], object]
"""Writes names as the value that is checked was written."""


def _instrument(value: object) -> bool | tuple[str, ...]:
    """Return a switch for all, or the names of some; text is split at commas."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return bool(SWITCH.check(value))
        except Refused:
            return _names([part.strip() for part in value.split(",") if part.strip()], ",".join)
    if not isinstance(value, Collection) or isinstance(value, (bytes, Mapping)):
        raise Refused("neither true nor false nor a list of names", example=True)
    return _names(list(cast("Collection[object]", value)), list)


def _names(given: list[object] | list[str], written: Written) -> tuple[str, ...]:
    """Return the names as the packages write them, each once."""
    by_module = {normalized(name): name for name in sorted(installed())}
    return tuple(dict.fromkeys(_name(one, by_module, written) for one in given))


def _name(given: object, by_module: Mapping[str, str], written: Written) -> str:
    name = normalized(given) if isinstance(given, str) else ""
    if name in by_module:
        return by_module[name]
    names = [*by_module.values()]
    example = written(names[:2]) if names else True
    if name in OF_TASKOBS:
        raise Refused(f"with {shown(given)}, which taskobs instruments by itself", example)
    near = difflib.get_close_matches(name, by_module, n=1)
    there = f"installed are: {', '.join(names)}" if names else "none is installed"
    raise Refused(
        f"with {shown(given)}, for which no instrumentation is installed ({there}; others are "
        f"packages such as {_PACKAGE}redis)",
        written([by_module[one] for one in near]) if near else example,
    )


INSTRUMENT = ValueCheck(_instrument, shown)
