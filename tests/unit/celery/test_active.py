from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest

from taskobs.celery.active import ContextStack
from taskobs.celery.observer_calls import Opener
from taskobs.internal.guard import Guard


class Limit(Exception):  # noqa: N818  # stands for Celery's soft time limit
    """What no guard may swallow."""


def opener(name: str, closed: list[str], error: Exception | None = None) -> Opener:
    @contextmanager
    def opened(_: object) -> Generator[None]:
        yield
        closed.append(name)
        if error is not None:
            raise error

    return opened


def refusing(_: object) -> Generator[None]:
    raise RuntimeError("no")


def test_what_opened_is_closed_in_reverse() -> None:
    """What was opened first is closed last, and only once."""
    closed: list[str] = []
    stack = ContextStack(Guard(strict=True))
    stack.open([opener(name, closed) for name in "abc"], object())
    stack.close()
    stack.close()
    assert closed == ["c", "b", "a"]


def test_one_that_fails_to_open_or_close_harms_no_other() -> None:
    """An observer that raises stops neither the opening nor the closing of the others."""
    closed: list[str] = []
    guard = Guard()
    stack = ContextStack(guard)
    broken: list[Opener] = [opener("b", closed, RuntimeError()), refusing]  # type: ignore[list-item]
    stack.open([opener("a", closed), *broken, opener("c", closed)], object())
    stack.close()
    assert closed == ["c", "b", "a"]
    assert guard.counts == {"builtins.RuntimeError": 2}


def test_a_time_limit_closes_the_rest_and_goes_on() -> None:
    """A time limit that strikes while one is closed reaches my task, when all are closed."""
    closed: list[str] = []
    stack = ContextStack(Guard(passing=(Limit,)))
    stack.open([opener("a", closed), opener("b", closed, Limit())], object())
    with pytest.raises(Limit):
        stack.close()
    assert closed == ["b", "a"]
