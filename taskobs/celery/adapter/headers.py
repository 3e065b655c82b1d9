"""A message's headers, as the receiver of a message may trust them: text of a sane length."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final, cast

from celery.app.task import Context
from celery.utils.time import maybe_iso8601

from taskobs import semconv

# No propagator's header is longer: W3C Baggage allows 8192 bytes, trace context far less.
_CHARS: Final = 8192
# As many links as a span can hold are longer: 128 of a chord's header, 69 characters each.
_LONGER: Final = {semconv.HEADER_LINKS: 16_384}
# Celery puts a message's headers among its own fields of the request, by their names.
_FIELDS: Final = frozenset(
    {
        *(name for name in vars(Context) if not name.startswith("_")),
        *("lang", "task", "argsrepr", "kwargsrepr", "compression", "embed"),
    }
)
# What `float` takes beside this, such as spaces and the digits of other scripts, is not ours.
_SECONDS: Final = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,9})?")
_PUBLISHED_AT: Final = semconv.HEADER_PUBLISHED_AT
_LONGEST_WAIT: Final = 366 * 86_400.0
"""Seconds: a clock that is further off than this is no clock."""


_names: Final[dict[tuple[str, ...], tuple[str, ...]]] = {}
"""Which fields of a request are headers, by all that it has: nearly always those of another."""
_MOST: Final = 100
_NAME_CHARS: Final = 2048
"""Of the names of all fields: whoever publishes chooses them."""


def _find_names(fields: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(name for name in fields if name not in _FIELDS)
    if all(type(name) is str for name in fields) and sum(map(len, fields)) <= _NAME_CHARS:
        if len(_names) >= _MOST:
            _names.clear()
        _names[fields] = found
    return found


def texts_of(fields: Mapping[str, Any], nested: object) -> Mapping[str, str]:
    """Return the headers of a message that are text of a sane length.

    ``fields`` are those of a request, with the message's flat headers among them; a flat header
    goes before one that is ``nested``. Lone surrogates are not printable, and propagators that
    encode a header would raise on one.
    """
    found: dict[str, str] = {}
    key = tuple(fields)
    names = _names.get(key)
    if names is None:
        names = _find_names(key)
    for name in names:
        value = fields[name]
        if (
            isinstance(value, str)
            and (len(value) <= _CHARS or len(value) <= _LONGER.get(name, _CHARS))
            and (value.isascii() or value.isprintable())
        ):
            found[name] = value
    if nested and type(nested) is dict and nested.keys() <= fields.keys():
        return found  # as in Celery 5.7, which puts the flat headers there too
    if nested and isinstance(nested, Mapping):
        more = cast("Mapping[object, object]", nested)
        missing = {
            name: more[name] for name in more if isinstance(name, str) and name not in fields
        }
        if missing:
            return {**texts_of(missing, None), **found}
    return found


def queue_wait(fields: Mapping[str, Any], now: float) -> float | None:
    """Return what ``queue_latency`` does, of the fields of a request; they may hold anything."""
    return queue_latency(fields, fields.get("eta"), now)


def eta_of(fields: Mapping[str, Any]) -> float | None:
    """Return a request's ETA in seconds since the epoch; None for what is no time."""
    try:
        return _epoch(fields.get("eta"))
    except (ValueError, TypeError, OverflowError):
        return None


def queue_latency(headers: Mapping[str, object], eta: object, now: float) -> float | None:
    """Return the seconds from a message's publish, or from its ETA if later, to ``now``.

    Never below 0, as the clocks of two machines differ; None for what is no time of a publish.
    """
    text = headers.get(_PUBLISHED_AT)
    if not isinstance(text, str) or not _SECONDS.fullmatch(text):
        return None
    published = float(text)
    if not published:
        return None
    if eta is not None:
        try:
            published = max(published, _epoch(eta))
        except (ValueError, TypeError, OverflowError):
            return None
    waited = now - published
    return None if waited > _LONGEST_WAIT else max(0.0, waited)


def _epoch(eta: object) -> float:
    moment: datetime | None = maybe_iso8601(cast("Any", eta))
    if moment is None:
        return -math.inf
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
