"""Check the values of the settings of check-ins: see ``taskobs.config.checks``."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Final, cast
from zoneinfo import ZoneInfo

from taskobs.config.checks import Refused, ValueCheck, shown

_NAMES_EXAMPLE: Final = ["entry-name", "report-.*"]
_OPTIONS_EXAMPLE: Final = {"entry-name": {"checkin_margin": 5, "max_runtime": 30}}
_NUMBERS: Final = (
    *("checkin_margin", "max_runtime"),
    *("failure_issue_threshold", "recovery_threshold"),
)
_MOST: Final = 40_320
"""Four weeks in minutes, Sentry's limit."""


def _exclude(value: object) -> tuple[str, ...]:
    """Return names and patterns; text is split at commas."""
    if isinstance(value, str):
        items: list[object] = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, Collection) and not isinstance(value, (bytes, Mapping)):
        items = list(cast("Collection[object]", value))
    else:
        raise Refused("not a list of names or regular expressions", _NAMES_EXAMPLE)
    return tuple(_pattern(item, position) for position, item in enumerate(items, start=1))


def _pattern(item: object, position: int) -> str:
    if not isinstance(item, str):
        raise Refused(f"not text in entry {position}", _NAMES_EXAMPLE)
    try:
        re.compile(item)
    except re.error:
        example = [re.escape(item)]
        raise Refused(f"not a regular expression in entry {position}", example) from None
    return item


def _options(value: object) -> Mapping[str, Mapping[str, object]]:
    """Return the options of each entry; text is JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Refused("not JSON", json.dumps(_OPTIONS_EXAMPLE)) from None
    if not isinstance(value, Mapping):
        raise Refused("not options by the name of an entry", _OPTIONS_EXAMPLE)
    entries = cast("Mapping[object, object]", value)
    return {str(name): _entry(str(name), options) for name, options in entries.items()}


def _entry(name: str, options: object) -> Mapping[str, object]:
    if not isinstance(options, Mapping):
        raise Refused(f"without options for {name!r}", _OPTIONS_EXAMPLE)
    given = cast("Mapping[object, object]", options)
    return {str(option): _option(name, option, value) for option, value in given.items()}


def _option(name: str, option: object, value: object) -> object:
    if option == "timezone":
        return _timezone(name, value)
    if option not in _NUMBERS:
        options = ", ".join((*_NUMBERS, "timezone"))
        raise Refused(f"with an option for {name!r} that is none of {options}", _OPTIONS_EXAMPLE)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        problem = f"with a {option} for {name!r} that is not a whole number from 1 to {_MOST}"
        raise Refused(problem, _OPTIONS_EXAMPLE)
    return value


def _timezone(name: str, value: object) -> str:
    try:
        return ZoneInfo(value).key if isinstance(value, str) else ZoneInfo("").key
    except (OSError, ValueError, LookupError):
        example = {name: {"timezone": "Europe/Berlin"}}
        raise Refused(f"with a timezone for {name!r} that there is none of", example) from None


CRONS_EXCLUDE = ValueCheck(_exclude, shown)
CRONS_OPTIONS = ValueCheck(_options, shown)
