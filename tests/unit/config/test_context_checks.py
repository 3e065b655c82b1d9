"""The keys of context values are what was asked for, or are refused in words that help."""

from __future__ import annotations

import pytest

from taskobs.config.context_checks import MOST_KEYS
from taskobs.config.settings import resolve
from taskobs.errors import SettingError


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        (["tenant", "user_id"], {"tenant", "user_id"}),
        (("tenant",), {"tenant"}),
        ({"tenant"}, {"tenant"}),
        ("tenant, user_id ,", {"tenant", "user_id"}),
        ([], set[str]()),
    ],
)
def test_keys_are_a_list_or_a_text(given: object, keys: object) -> None:
    assert resolve({"context_keys": given}, {}).context_keys == keys


def test_a_variable_says_it_too() -> None:
    environ = {"TASKOBS_CONTEXT_KEYS": "tenant,user_id"}
    assert resolve({}, environ).context_keys == {"tenant", "user_id"}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (7, "not a list of keys"),
        (b"tenant", "not a list of keys"),
        ({"tenant": 1}, "not a list of keys"),
        ([7], "is not text, in entry 1"),
        (["tenant", "user id"], "in entry 2"),
        (["celery.queue"], "in entry 1"),
        (["x" * 33], "in entry 1"),
        (["task_id"], "is the name of something else"),
        ("tenant,message", "is the name of something else"),
        ([f"key{number}" for number in range(MOST_KEYS + 1)], "more than 32 keys"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_can_not_be_a_key_is_refused(given: object, problem: str) -> None:
    """I mistype a key, and the error says which entry, why, and what would do."""
    with pytest.raises(SettingError) as caught:
        resolve({"context_keys": given}, {})
    assert problem in str(caught.value)
    assert "taskobs.init(context_keys=['tenant', 'user_id'])" in str(caught.value)
