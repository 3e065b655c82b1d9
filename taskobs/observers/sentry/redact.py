"""Removes from Sentry's events what must not leave the process, and cuts arguments short.

Works on event dicts and on task arguments; imports neither Sentry nor Celery, and calls no code
of the objects that it is given: no ``__repr__``, ``__len__`` or ``__iter__`` of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from typing import Final, cast
from uuid import UUID

from taskobs.observers.sentry.celery_texts import (
    FILTERED,
    is_celery_logger,
    safe_message,
    without_arguments,
)

MAX_DEPTH: Final = 5
MAX_ITEMS: Final = 50
MAX_TEXT: Final = 1024
MAX_TOTAL: Final = 16_384
"""Characters of all the arguments of a run together."""

_CUT: Final = "..."
_MAX_KEY: Final = 128
_MAX_INT_BITS: Final = 128
_SAID_PLAINLY: Final = frozenset({date, datetime, time, timedelta, Decimal, UUID})
_SEQUENCES: Final = (list, tuple, set, frozenset)
_SECRET_PARTS: Final = (
    *("password", "passwd", "passphrase", "pwd", "secret", "token", "credential", "cookie"),
    *("apikey", "api_key", "api-key", "privatekey", "private_key", "authorization", "bearer"),
    *("csrf", "xsrf", "jwt", "signature", "session"),
)
_CELERY_CODE: Final = ("celery", "kombu", "billiard", "taskobs")


def brief(value: object, also_secret: frozenset[str] = frozenset()) -> object:
    """Copy ``value`` as plain data, cut short, with the values of secret keys replaced.

    At most ``MAX_DEPTH`` levels, ``MAX_ITEMS`` items in each and ``MAX_TOTAL`` characters come
    out, whatever goes in. ``also_secret`` names further keys, in lower case. Of an object,
    only the class is shown: its ``repr`` can't be scrubbed.
    """
    return _Cutter(also_secret).cut(value, MAX_DEPTH)


def is_secret(name: str) -> bool:
    """Tell whether the name of a value says that the value is secret."""
    lowered = name.lower()
    return any(part in lowered for part in _SECRET_PARTS)


def drop_variables(event: dict[str, object], *, everywhere: bool) -> None:
    """Take the frame variables out of an event: all, or those of Celery's and our own frames."""
    for frame in frames(event):
        if everywhere or belongs_to_celery(frame.get("module")):
            frame.pop("vars", None)


def drop_arguments(event: dict[str, object]) -> None:
    """Remove the arguments and results that Celery's own code has put into an event."""
    _drop_celery_breadcrumbs(event)
    _drop_celery_record(event)
    _scrub(event, "message")
    _scrub(table(event.get("logentry")), "message", "formatted")
    for part, texts in (("exception", ("value",)), ("breadcrumbs", ("message",))):
        for row in rows(table(event.get(part)).get("values")):
            _scrub(row, *texts)
    for span in rows(event.get("spans")):
        _scrub(span, "description")


def _drop_celery_breadcrumbs(event: dict[str, object]) -> None:
    """Remove the breadcrumbs of Celery's loggers, which carry arguments and results."""
    crumbs = table(event.get("breadcrumbs"))
    values = crumbs.get("values")
    if isinstance(values, list):
        kept = rows(cast("object", values))
        crumbs["values"] = [row for row in kept if not is_celery_logger(row.get("category"))]


def _drop_celery_record(event: dict[str, object]) -> None:
    """Remove the arguments from an event that one of Celery's own log records became."""
    if not is_celery_logger(event.get("logger")):
        return
    table(event.get("extra")).pop("data", None)
    drop_variables(event, everywhere=True)
    entry = table(event.get("logentry"))
    safe = safe_message(entry.get("message"), entry.get("params"))
    if safe is not None:
        entry["formatted"], entry["params"] = safe


def _scrub(row: dict[str, object], *names: str) -> None:
    for name in names:
        text = row.get(name)
        if isinstance(text, str):
            row[name] = without_arguments(text)


def set_tags(event: dict[str, object], tags: Mapping[str, object]) -> None:
    """Set tags of an event; None takes one away.

    Sentry takes a dict or a list of pairs, and a processor of the app's may have made either.
    """
    found: object = event.get("tags")
    if isinstance(found, list):
        pairs = [pair for pair in cast("list[object]", found) if _name_of(pair) not in tags]
        pairs += [[name, value] for name, value in tags.items() if value is not None]
        event["tags"] = pairs
        return
    kept = part(event, "tags")
    for name, value in tags.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = value


def names_of_tags(event: Mapping[str, object]) -> frozenset[str]:
    """Return the names of an event's tags."""
    found = event.get("tags")
    if isinstance(found, dict):
        return frozenset(cast("dict[str, object]", found))
    names = map(_name_of, cast("list[object]", found) if isinstance(found, list) else [])
    return frozenset(name for name in names if name is not None)


def _name_of(pair: object) -> str | None:
    name = cast("list[object]", pair)[0] if isinstance(pair, (list, tuple)) and pair else None
    return name if isinstance(name, str) else None


def table(value: object) -> dict[str, object]:
    """Read a part of an event as a dict; an empty one stands for anything else."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def part(event: dict[str, object], name: str) -> dict[str, object]:
    """Return a part of an event to write to; a part that is no dict is replaced."""
    found = event.get(name)
    if not isinstance(found, dict):
        found = event[name] = dict[str, object]()
    return cast("dict[str, object]", found)


def rows(value: object) -> list[dict[str, object]]:
    """Read a part of an event as a list of dicts, leaving out what is none."""
    found = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("dict[str, object]", row) for row in found if isinstance(row, dict)]


def belongs_to_celery(module: object) -> bool:
    """Tell whether a module is Celery's, of its libraries, or ours."""
    return isinstance(module, str) and module.partition(".")[0] in _CELERY_CODE


def frames(event: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """Yield the frames of all stacks of an event."""
    stacks = [event.get("stacktrace")]
    for section in ("exception", "threads"):
        values = table(event.get(section)).get("values")
        stacks += [row.get("stacktrace") for row in rows(values)]
    for stack in stacks:
        yield from rows(table(stack).get("frames"))


@dataclass(slots=True)
class _Cutter:
    """Copies one value. ``issubclass`` of its type, as ``isinstance`` may ask the object."""

    also_secret: frozenset[str]
    left: int = MAX_TOTAL

    def cut(self, value: object, depth: int) -> object:
        if self.left <= 0:
            return _CUT
        kind = type(value)
        if issubclass(kind, dict):
            return self._mapping(cast("dict[object, object]", value), depth)
        for base in _SEQUENCES:
            if issubclass(kind, base):
                return self._sequence(base.__iter__(cast("list[object]", value)), depth)  # type: ignore[arg-type]
        return self._leaf(value, kind)

    def _mapping(self, value: dict[object, object], depth: int) -> object:
        length = dict[object, object].__len__(value)
        if depth == 0:
            return self._text(f"<{length} items>")
        found: dict[str, object] = {}
        for key, item in list(islice(dict[object, object].items(value), MAX_ITEMS)):
            name = self._name(key)
            self.left -= len(name)
            found[name] = FILTERED if self._secret(name) else self.cut(item, depth - 1)
        if length > MAX_ITEMS:
            found[_CUT] = f"{length - MAX_ITEMS} more"
        return found

    def _sequence(self, items: Iterator[object], depth: int) -> object:
        if depth == 0:
            return self._text("<items>")
        found = [self.cut(item, depth - 1) for item in list(islice(items, MAX_ITEMS))]
        return [*found, _CUT] if next(items, self) is not self else found

    def _leaf(self, value: object, kind: type[object]) -> object:
        self.left -= 8
        if value is None or kind is bool:
            return value
        if issubclass(kind, str):
            return self._text(str.__getitem__(cast("str", value), slice(MAX_TEXT + 1)))
        if kind is int and int.bit_length(cast("int", value)) <= _MAX_INT_BITS:
            return value
        if kind is float:
            return value if math.isfinite(cast("float", value)) else str(value)
        if issubclass(kind, bytes):
            return f"<{bytes.__len__(cast('bytes', value))} bytes>"
        return self._text(str(value) if kind in _SAID_PLAINLY else type.__repr__(kind))

    def _name(self, key: object) -> str:
        kind = type(key)
        text = cast("str", key) if issubclass(kind, str) else str(self._leaf(key, kind))
        return str.__getitem__(text, slice(_MAX_KEY))

    def _text(self, text: str) -> str:
        room = min(MAX_TEXT, max(self.left, 0))
        self.left -= min(len(text), room)
        return text if len(text) <= room else text[:room] + _CUT

    def _secret(self, name: str) -> bool:
        return name.lower() in self.also_secret or is_secret(name)
