"""Check the value of ``keep``: see ``taskobs.config.checks``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, cast

from taskobs.config.checks import Refused, ValueCheck, shown
from taskobs.protocol.held_spans import rules

_EXAMPLE: Final = ["failed", "slower than 5s"]
_IN_A_VARIABLE: Final = ", ".join(_EXAMPLE)
_RULES: Final = (
    f"a rule is {', '.join(rules.NAMES)}, or {rules.SLOWER_THAN}"
    "and a number above 0 with ms, s, min or h"
)


def _keep(value: object) -> tuple[str, ...]:
    """Return the rules, in lower case; text is split at commas."""
    if isinstance(value, str):
        return _rules(value.split(","), _IN_A_VARIABLE)
    if not isinstance(value, Collection) or isinstance(value, (bytes, Mapping)):
        raise Refused("not a list of rules", _EXAMPLE)
    return _rules(cast("Collection[object]", value), _EXAMPLE)


def _rules(items: Collection[object], example: object) -> tuple[str, ...]:
    found: list[str] = []
    for position, item in enumerate(items, start=1):
        rule = " ".join(item.lower().split()) if isinstance(item, str) else ""
        try:
            rules.parse([rule])
        except ValueError:
            raise Refused(f"not a rule in entry {position}: {_RULES}", example) from None
        found.append(rule)
    if not found:
        raise Refused("empty; leave it out instead", example)
    return tuple(found)


KEEP: Final = ValueCheck(_keep, shown)
