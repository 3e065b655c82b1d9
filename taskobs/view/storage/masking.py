"""Takes secrets out of what telemetry says, and cuts what is long."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final, cast

from taskobs.observers.sentry.redact import is_secret

MASK: Final = "[masked]"
MAX_TEXT: Final = 32_768
"""Characters that are kept of a text: as many as a stack trace of ours has."""
MAX_ITEMS: Final = 200
"""Values that are kept of a sequence or a mapping."""

_LOGIN: Final = re.compile(r"(?<=://)(?:[^\s/@:]*:[^\s/@]*|[0-9a-f]{32})(?=@)")
"""User and password of a URL, or the key of a DSN."""
_NAMES: Final = (
    *("password", "passwd", "passphrase", "secret", "token", "credential", "authorization"),
    *("apikey", "api_key", "api-key", "private_key", "private-key", "privatekey"),
)
_ASSIGNED: Final = re.compile(
    rf"""
    (?P<name> (?: {"|".join(_NAMES)} ) [\w-]{{0,40}} ["']? \s{{0,4}} [:=] \s{{0,4}} )
    (?: (?: bearer | basic ) \s{{1,4}} \S+ | "[^"]*" | '[^']*' | [^\s,;&"'}}\]]+ )
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""``password=...``, ``"token": "..."``, ``Authorization: Bearer ...`` inside a text.

Repetitions before a value are bounded: otherwise a long text would take quadratic time.
"""


def masked_text(text: str) -> str:
    """Return a text without what it names as a password, token or key, cut if it is long."""
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]} [{len(text) - MAX_TEXT} more characters]"
    if "://" in text:
        text = _LOGIN.sub(MASK, text)
    lowered = text.lower()
    if any(name in lowered for name in _NAMES):  # ten times as fast as the expression
        text = _ASSIGNED.sub(_without_value, text)
    return text


def _without_value(found: re.Match[str]) -> str:
    return found["name"] + MASK


def masked(values: Mapping[str, object]) -> dict[str, object]:
    """Copy a mapping, and what is in it, with the texts under secret names replaced."""
    return {
        masked_text(str(name)): _value(str(name), value)
        for name, value in islice(values.items(), MAX_ITEMS)
    }


def _value(name: str, value: object) -> object:
    if isinstance(value, str):
        return MASK if value and is_secret(name) else masked_text(value)
    if isinstance(value, Mapping):
        return masked(cast("Mapping[str, object]", value))
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[object]", value)
        return [_value(name, item) for item in items[:MAX_ITEMS]]
    return value
