"""Rules of tasks are what was asked for, or are refused in words that help."""

from __future__ import annotations

import ast
import json
import math
from typing import Any

import pytest

from taskobs.config.settings import Settings, resolve
from taskobs.errors import SettingError

RULES: dict[str, Any] = {
    "reports.daily": {},
    "reports.*": {"sample_rate": 1},
    "heartbeat": {"sample_rate": 0, "errors": False},
    "imports.*": {"link": True, "send_arguments": True},
}


def refusal(tasks: object) -> SettingError:
    with pytest.raises(SettingError) as caught:
        resolve({"tasks": tasks}, {})
    return caught.value


def as_fixed(error: SettingError) -> Settings:
    """Give the settings of the line that an error recommends."""
    text = error.fix.removeprefix("taskobs.init(tasks=").removesuffix(")")
    return resolve({"tasks": ast.literal_eval(text)}, {})


def test_rules_come_back_in_their_order() -> None:
    """What I give is what holds, and the first rule stays the first."""
    settings = resolve({"tasks": RULES}, {})
    assert list((settings.tasks or {}).items()) == list(RULES.items())


def test_rules_come_from_a_variable_as_json() -> None:
    settings = resolve({}, {"TASKOBS_TASKS": json.dumps(RULES)})
    assert list((settings.tasks or {}).items()) == list(RULES.items())


def test_no_rules_are_no_rules() -> None:
    assert resolve({"tasks": {}}, {}).tasks == {}
    assert resolve({}, {}).tasks is None


def test_a_misspelt_key_is_named_with_the_right_one() -> None:
    error = refusal({"reports.*": {"sampel_rate": 0.5}})
    assert "'sampel_rate'" in str(error)
    assert "did you mean 'sample_rate'?" in str(error)
    assert error.fix == "taskobs.init(tasks={'reports.*': {'sample_rate': 0.5}})"


@pytest.mark.parametrize(
    "rate",
    [10, -0.1, 1.01, True, math.nan, math.inf, "0.5", None, [], pytest.param(10**400, id="huge")],
    ids=repr,
)
def test_a_rate_that_is_no_share_is_refused(rate: object) -> None:
    error = refusal({"reports.*": {"sample_rate": rate}})
    assert "a sample_rate for 'reports.*' that is not a number from 0 (nothing) to 1" in str(error)
    assert error.fix == "taskobs.init(tasks={'reports.*': {'sample_rate': 0.1}})"


@pytest.mark.parametrize("key", ["errors", "link", "send_arguments"])
@pytest.mark.parametrize("value", [0, 1, "no", None, 0.5, []], ids=repr)
def test_a_switch_that_is_none_is_refused(key: str, value: object) -> None:
    error = refusal({"beat": {key: value}})
    assert f"with {key} for 'beat' that is neither True nor False" in str(error)
    assert as_fixed(error).tasks == {"beat": {key: True}}


@pytest.mark.parametrize(
    ("tasks", "problem"),
    [
        (["reports.*"], "not rules by patterns"),
        (3, "not rules by patterns"),
        ("reports.*", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not rules by patterns"),
        ({"reports.*": 0.5}, "without a rule for 'reports.*'"),
        ({"reports.*": None}, "without a rule for 'reports.*'"),
        ({1: {}}, "without the pattern of a name in entry 1"),
        ({"a": {}, " ": {}}, "without the pattern of a name in entry 2"),
        ({"a": {7: True}}, "with a key 7 for 'a'"),
    ],
    ids=repr,
)
def test_what_is_no_rule_is_refused(tasks: object, problem: str) -> None:
    assert problem in str(refusal(tasks))


def test_arguments_of_failures_that_are_not_sent_are_refused() -> None:
    """I ask for arguments on events, and for no events: I am told, and how to have them."""
    error = refusal({"imports.*": {"errors": False, "send_arguments": True}})
    assert "send_arguments for 'imports.*' beside errors=False" in str(error)
    assert as_fixed(error).tasks == {"imports.*": {"errors": True, "send_arguments": True}}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("*", "reports.*"),
        ("reports.*", "reports.daily"),
        ("reports.*", "reports.eu.*"),
        ("rep*", "reports.?"),
        ("*.da[iy]ly", "reports.daily"),
        ("**", "*"),
    ],
)
def test_a_rule_that_never_decides_is_refused(first: str, second: str) -> None:
    """The pattern before it takes all of its tasks: the error has them in the right order."""
    error = refusal({first: {"errors": False}, second: {"errors": True}})
    assert f"with {second!r} after {first!r}, which matches the same names first" in str(error)
    assert list(as_fixed(error).tasks or {}) == ([second, first] if first != "**" else [first])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("reports.daily", "reports.*"),
        ("reports.?", "reports.*"),
        ("[r]*", "r[e]*"),
        ("*.daily", "reports.*"),
        ("*", "[ab]"),
    ],
)
def test_a_rule_that_may_decide_is_kept(first: str, second: str) -> None:
    assert list(resolve({"tasks": {first: {}, second: {}}}, {}).tasks or {}) == [first, second]


@pytest.mark.parametrize("text", ['{"a": {"errors": 1}}', '{"a": {"link": "yes"}}', "nonsense"])
def test_the_fix_of_a_variable_is_json(text: str) -> None:
    with pytest.raises(SettingError) as caught:
        resolve({}, {"TASKOBS_TASKS": text})
    name, _, fixed = caught.value.fix.partition("=")
    assert name == "TASKOBS_TASKS"
    assert resolve({}, {name: fixed}).tasks


def test_a_rule_in_the_settings_is_shown() -> None:
    assert "tasks={'heartbeat': {'errors': False}}" in repr(
        resolve({"tasks": {"heartbeat": {"errors": False}}}, {})
    )
