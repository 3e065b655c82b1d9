"""Serializes the events of runs as Sentry does, for less work.

Sentry's serializer visits each value of an event, at about 5 us each: to cut it short, to have its
``repr``, to note where either was done. Most parts of a failure's event are plain data, of which it
makes a mere copy. That copy is made here, and Sentry's serializer gets the other parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, cast

from sentry_sdk import serializer
from sentry_sdk.utils import format_timestamp

from taskobs.observers.sentry.events import Texts, TextTable
from taskobs.observers.sentry.run_events import active

_WALKED: Final = frozenset({"request", "spans"})
"""Parts for which Sentry has rules of its own, and which a failed task seldom has."""
_BREADCRUMBS: Final = "breadcrumbs"
_CRUMBS: Final = "values"
_EXTRA: Final = "extra"
_DEEPEST: Final = 20
"""Levels of parts that Sentry does not cut; one that refers to itself is left to Sentry."""
_LONGEST: Final = 100_000
"""Bytes of a text without a limit of the client's: the least that a release has had."""
_NOT_PLAIN: Final = object()
_SPECIAL: Final = "__sentry_repr__"
_BYTES: Final = 4
"""The most that a character has in UTF-8: Sentry's limit is one of bytes."""


class _NotPlainError(Exception):
    """A value that Sentry's serializer may change."""


def serialize_event(
    serialize: Callable[..., Any],
    _: object,
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:  # noqa: ANN401  # whatever Sentry's serializer returns
    """Serialize an event, in the place of Sentry's ``serialize``, which is given the rest."""
    if active.get() is None or len(args) != 1 or type(args[0]) is not dict:
        return serialize(*args, **options)  # an event of a web request, say, is none of ours
    event = cast("dict[object, object]", args[0])
    longest = options.get("max_value_length", 0)
    done = _copies(event, _LONGEST if longest is None else longest)
    left = {name: part for name, part in event.items() if name not in done}
    if not left:
        return done
    found: Any = serialize(left, **options)
    if not isinstance(found, dict):
        return found
    kept = cast("dict[object, object]", found)
    in_order = dict.fromkeys(name for name in event if name in done or name in kept)
    return {**in_order, **done, **kept}


def _copies(event: Mapping[object, object], longest: object) -> dict[object, object]:
    """Copy the parts of an event that are plain data."""
    if type(longest) is not int:
        return {}
    copies = ((name, _copy_part(name, part, longest // _BYTES)) for name, part in event.items())
    return {name: copy for name, copy in copies if copy is not _NOT_PLAIN}


def _copy_part(name: object, part: object, longest: int) -> object:
    try:
        if name == _EXTRA:
            return _copy_bag(part, longest)
        if name == _BREADCRUMBS:
            return _copy_crumbs(part, longest)
        if type(name) is str and name not in _WALKED:
            return _copy(part, _DEEPEST, math.inf, longest)
    except (_NotPlainError, RuntimeError):  # a table that another thread changes meanwhile
        pass
    return _NOT_PLAIN


def _copy_crumbs(part: object, longest: int) -> object:
    if type(part) is not dict or part.keys() != {_CRUMBS}:
        raise _NotPlainError
    values = cast("dict[str, object]", part)[_CRUMBS]
    if type(values) is not list:
        raise _NotPlainError
    crumbs = cast("list[object]", values)
    return {_CRUMBS: [_copy_bag(crumb, longest) for crumb in crumbs]}


def _copy_bag(value: object, longest: int) -> object:
    """Copy what Sentry cuts to so many levels and items, and has the app's functions change."""
    # By name, as these are not documented; apps set the first two.
    depth: Any = getattr(serializer, "MAX_DATABAG_DEPTH", 0)
    breadth: Any = getattr(serializer, "MAX_DATABAG_BREADTH", 0)
    if getattr(serializer, "global_repr_processors", True):
        raise _NotPlainError
    return _copy(value, depth, breadth, longest)


def _copy(value: object, depth: float, breadth: float, longest: int) -> object:
    if depth <= 0:
        raise _NotPlainError
    kind: type[object] = type(value)
    if kind is dict:
        return _copy_table(cast("dict[object, object]", value), depth - 1, breadth, longest)
    if kind is list or kind is tuple:
        items = cast("list[object]", value)
        if len(items) > breadth:
            raise _NotPlainError
        return [_copy(item, depth - 1, breadth, longest) for item in items]
    if _is_plain(value, kind, longest):
        return value
    return _copy_other(value, kind, depth, breadth, longest)


def _copy_table(
    value: Mapping[object, object], depth: float, breadth: float, longest: int
) -> object:
    if len(value) > breadth:
        raise _NotPlainError
    found: dict[object, object] = {}
    for name, item in value.items():
        if type(name) is not str:
            raise _NotPlainError
        found[name] = _copy(item, depth, breadth, longest)
    return found


def _is_plain(value: object, kind: type[object], longest: int) -> bool:
    if kind is str:
        return len(cast("str", value)) <= longest
    if kind is float:
        return math.isfinite(cast("float", value))
    return value is None or kind is bool or kind is int


def _copy_other(
    value: object, kind: type[object], depth: float, breadth: float, longest: int
) -> object:
    if kind is datetime:
        return str(format_timestamp(cast("datetime", value)))
    if kind is Texts or kind is TextTable:
        return cast("Texts | TextTable", value).__sentry_repr__()
    if issubclass(kind, dict) and not hasattr(cast("object", kind), _SPECIAL):
        table = cast("dict[object, object]", value)
        return _copy_table(dict(table.items()), depth - 1, breadth, longest)
    raise _NotPlainError
