"""The settings of check-ins are what was asked for, or are refused in words that help."""

from __future__ import annotations

import pytest

from taskobs.config.settings import resolve
from taskobs.errors import SettingError


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a", "b.*"], ("a", "b.*")),
        (("a",), ("a",)),
        ({"a"}, ("a",)),
        ("a, b.* ,", ("a", "b.*")),
        ([], ()),
    ],
)
def test_entries_are_excluded_by_names_and_patterns(given: object, names: object) -> None:
    assert resolve({"crons_exclude": given}, {}).crons_exclude == names


def test_variables_say_it_too() -> None:
    environ = {
        "TASKOBS_CRONS": "on",
        "TASKOBS_CRONS_EXCLUDE": "a,b",
        "TASKOBS_CRONS_OPTIONS": '{"a": {"max_runtime": 3}}',
    }
    settings = resolve({}, environ)
    assert settings.crons is True
    assert settings.crons_exclude == ("a", "b")
    assert settings.crons_options == {"a": {"max_runtime": 3}}


def test_options_are_those_of_a_monitor() -> None:
    options = {
        "nightly": {
            "checkin_margin": 5,
            "max_runtime": 40_320,
            "timezone": "Europe/Berlin",
            "failure_issue_threshold": 2,
            "recovery_threshold": 1,
        }
    }
    assert resolve({"crons_options": options}, {}).crons_options == options


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("crons_exclude", 3, "not a list"),
        ("crons_exclude", {"a": 1}, "not a list"),
        ("crons_exclude", ["a", 3], "not text in entry 2"),
        ("crons_exclude", ["a", "b("], "not a regular expression in entry 2"),
        ("crons_options", 3, "not options by the name of an entry"),
        ("crons_options", "a=b", "not JSON"),
        ("crons_options", "[" * 100_000, "not JSON"),
        ("crons_options", {"a": 3}, "without options for 'a'"),
        ("crons_options", {"a": {"margin": 3}}, "none of checkin_margin"),
        ("crons_options", {"a": {"max_runtime": 0}}, "not a whole number from 1 to 40320"),
        ("crons_options", {"a": {"max_runtime": "3"}}, "not a whole number"),
        ("crons_options", {"a": {"max_runtime": True}}, "not a whole number"),
        ("crons_options", {"a": {"max_runtime": 40_321}}, "not a whole number"),
        ("crons_options", {"a": {"timezone": "Mars/Olympus"}}, "timezone for 'a'"),
        ("crons_options", {"a": {"timezone": "../etc/passwd"}}, "timezone for 'a'"),
        ("crons_options", {"a": {"timezone": 3}}, "timezone for 'a'"),
    ],
)
def test_what_cannot_work_is_refused(name: str, value: object, problem: str) -> None:
    with pytest.raises(SettingError, match=name) as caught:
        resolve({name: value}, {})
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 1000
