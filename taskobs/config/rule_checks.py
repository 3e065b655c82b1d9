"""Check the rules of tasks: see ``taskobs.config.checks``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final, cast

from taskobs.config.checks import Refused, ValueCheck, shown
from taskobs.config.task_rules import TaskRule

_KEYS: Final = tuple(TaskRule.__annotations__)
_EXAMPLE: Final = {"reports.*": {"sample_rate": 1.0}, "heartbeat": {"errors": False}}
_WILD: Final = re.compile(r"[*?\[]")


def _tasks(value: object) -> Mapping[str, Mapping[str, object]]:
    """Return the rules by their patterns, in their order; text is JSON."""
    if not isinstance(value, str):
        return _rules(value)
    try:
        return _rules(_parsed(value))
    except Refused as refused:
        example = json.dumps(refused.example)
        raise Refused(refused.problem, example) from None


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Refused("not JSON", _EXAMPLE) from None


def _rules(value: object) -> Mapping[str, Mapping[str, object]]:
    if not isinstance(value, Mapping):
        raise Refused("not rules by patterns of tasks' names", _EXAMPLE)
    given = cast("Mapping[object, object]", value)
    rules: dict[str, Mapping[str, object]] = {}
    for position, (pattern, rule) in enumerate(given.items(), start=1):
        name = _pattern(pattern, position)
        _refuse_unreachable(name, rule, rules)
        rules[name] = _rule(name, rule)
    return rules


def _pattern(pattern: object, position: int) -> str:
    if not isinstance(pattern, str) or not pattern.strip():
        raise Refused(f"without the pattern of a name in entry {position}", _EXAMPLE)
    return pattern


def _refuse_unreachable(
    pattern: str, rule: object, before: Mapping[str, Mapping[str, object]]
) -> None:
    """Refuse a pattern that never decides, since an earlier one matches all that it matches."""
    for earlier, its_rule in before.items():
        if _covers(earlier, pattern):
            problem = f"with {pattern!r} after {earlier!r}, which matches the same names first"
            alike = _covers(pattern, earlier)
            raise Refused(problem, {**({} if alike else {pattern: rule}), earlier: its_rule})


def _covers(earlier: str, later: str) -> bool:
    """Tell whether a pattern matches all that a later one matches, as far as that is simple.

    Where the earlier one has no wildcard but ``*``, it takes those of the later one as any text.
    """
    if not _WILD.search(later):
        return fnmatchcase(later, earlier)
    return not set("?[") & set(earlier) and "[" not in later and fnmatchcase(later, earlier)


def _rule(pattern: str, rule: object) -> Mapping[str, object]:
    if not isinstance(rule, Mapping):
        raise Refused(f"without a rule for {pattern!r}: a mapping", {pattern: {"sample_rate": 1.0}})
    given = cast("Mapping[object, object]", rule)
    checked = {_key(pattern, key, value): value for key, value in given.items()}
    for key, value in checked.items():
        _check_value(pattern, key, value)
    if checked.get("errors") is False and checked.get("send_arguments") is True:
        problem = (
            f"with send_arguments for {pattern!r} beside errors=False: arguments are sent "
            "on the events of failures, of which there are none"
        )
        raise Refused(problem, {pattern: {**checked, "errors": True}})
    return checked


def _key(pattern: str, key: object, value: object) -> str:
    if isinstance(key, str) and key in _KEYS:
        return key
    near = get_close_matches(str(key), _KEYS, n=1, cutoff=0)[0]
    keys = ", ".join(_KEYS)
    problem = f"with a key {key!r} for {pattern!r} that is none of {keys}; did you mean {near!r}?"
    raise Refused(problem, {pattern: {near: value}})


def _check_value(pattern: str, key: str, value: object) -> None:
    if key != "sample_rate":
        if not isinstance(value, bool):
            problem = f"with {key} for {pattern!r} that is neither True nor False"
            raise Refused(problem, {pattern: {key: True}})
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= cast("float", value) <= 1:
        problem = (
            f"with a sample_rate for {pattern!r} that is not a number from 0 (nothing) "
            "to 1 (everything)"
        )
        raise Refused(problem, {pattern: {key: 0.1}})


TASKS: Final = ValueCheck(_tasks, shown)
