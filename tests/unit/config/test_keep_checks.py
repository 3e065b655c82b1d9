"""``keep`` is a list of rules, or is refused in words that help."""

from __future__ import annotations

import math

import pytest

from taskobs.config.settings import resolve
from taskobs.errors import SettingError
from taskobs.protocol.held_spans.rules import KeepRules, parse


@pytest.mark.parametrize(
    ("given", "rules"),
    [
        (["failed"], KeepRules(failed=True)),
        (("lost", "retried"), KeepRules(lost=True, retried=True)),
        ({"slower than 5s"}, KeepRules(slower=5.0)),
        (["slower than 2 min", "slower than 500ms"], KeepRules(slower=0.5)),
        (["slower than 1.5h"], KeepRules(slower=5400.0)),
        ([" Failed ", "Slower  than 1 S"], KeepRules(failed=True, slower=1.0)),
    ],
)
def test_rules_are_taken(given: object, rules: KeepRules) -> None:
    """I name what is to be kept, in a list, and it is understood."""
    keep = resolve({"keep": given}, {}).keep
    assert keep is not None
    assert parse(keep) == rules


def test_a_variable_has_commas() -> None:
    """I write the same into a variable."""
    settings = resolve({}, {"TASKOBS_KEEP": "failed, lost,slower than 5s"})
    assert settings.keep == ("failed", "lost", "slower than 5s")


def test_nothing_is_kept_by_default() -> None:
    assert resolve({}, {}).keep is None
    assert math.isinf(KeepRules().slower)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (3, "not a list of rules"),
        ({"failed": True}, "not a list of rules"),
        ([], "empty"),
        ("failed,", "not a rule in entry 2"),
        (["failed", 3], "not a rule in entry 2"),
        (["fialed"], "not a rule in entry 1"),
        (["slower than 5"], "not a rule in entry 1"),
        (["slower than 0s"], "not a rule in entry 1"),
        (["slower than -1s"], "not a rule in entry 1"),
        (["slower then 5s"], "not a rule in entry 1"),
    ],
)
def test_what_is_no_rule_is_refused(given: object, problem: str) -> None:
    """I slip, and read which setting, which value and which entry it is, and what would do."""
    with pytest.raises(SettingError) as caught:
        resolve({"keep": given}, {})
    text = str(caught.value)
    assert text.startswith(f"keep (variable TASKOBS_KEEP) is {given!r}: {problem}")
    assert "taskobs.init(keep=" in text
    assert "slower than 5s" in text
