"""Hooks are functions that can be called, or are refused in words that help."""

from __future__ import annotations

from functools import partial

import pytest

from taskobs.config.settings import resolve, settings_table
from taskobs.errors import SettingError

NAMES = ("on_publish", "on_run", "on_run_end")


def two(record: object, span: object) -> None:
    assert record is not span


def three(record: object, span: object, more: object = None) -> None:
    assert (record, span) is not more


class Callable:
    def __call__(self, record: object, span: object) -> None:
        assert record is not span


class Bound:
    def hook(self, *given: object) -> None:
        assert given


@pytest.mark.parametrize(
    "hook",
    [two, three, Callable(), Bound().hook, partial(three, more=1), print, max],
    ids=["function", "default", "object", "method", "partial", "built in", "no signature"],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_takes_a_record_and_a_span_is_a_hook(name: str, hook: object) -> None:
    settings = resolve({name: hook}, {})
    assert getattr(settings, name) is hook
    assert "object at 0x" not in repr(settings)


async def coroutine(record: object, span: object) -> None:
    assert record is not span


class AsyncCallable:
    async def __call__(self, record: object, span: object) -> None:
        assert record is not span


def named(*, record: object, span: object) -> None:
    assert record is not span


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        ("shop.hooks:tag", "not callable"),
        (7, "not callable"),
        (coroutine, "a coroutine function"),
        (AsyncCallable(), "a coroutine function"),
        (lambda: None, "not callable with two arguments"),
        (len, "not callable with two arguments"),
        (named, "not callable with two arguments"),
    ],
    ids=["a path", "a number", "a coroutine", "a callable coroutine", "none", "one", "keywords"],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_can_not_be_called_so_is_refused(name: str, hook: object, problem: str) -> None:
    """I give something else, and the error says what is wrong, and what would do."""
    with pytest.raises(SettingError) as caught:
        resolve({name: hook}, {})
    record = "publish" if name == "on_publish" else "run"
    assert problem in str(caught.value)
    assert f"taskobs.init({name}=lambda {record}, span: ...)" in str(caught.value)
    assert "variable" not in str(caught.value)


def test_a_hook_has_no_variable() -> None:
    """The table of settings shows that a function can't be named by a variable."""
    [row] = [line for line in settings_table().splitlines() if "`on_run`" in line]
    assert row.startswith("| `on_run` |  |  | ")
