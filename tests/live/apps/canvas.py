"""The shop, with the tasks that canvases are made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from celery import signature

from tests.live.apps.shop import add, app, fail, retry_then_ok, total

if TYPE_CHECKING:
    from celery import Task

__all__ = [
    "add",
    "app",
    "becomes",
    "fail",
    "retry_then_ok",
    "sanitize",
    "takes_nothing",
    "times",
    "times_all",
    "total",
]


@app.task(bind=True)
def becomes(self: Task[Any, Any], other: dict[str, Any]) -> Any:  # it never returns
    """Be replaced by another signature."""
    return self.replace(signature(other, app=self.app))


@app.task
def times(x: int, y: int) -> int:
    """Be told apart from `add`."""
    return x * y


@app.task
def times_all(numbers: list[int]) -> int:
    """Be the callback of an inner chord."""
    return math.prod(numbers)


@app.task
def sanitize(failed: str) -> str:
    """Be an errback that Celery publishes: one with more arguments is called in place."""
    return failed


@app.task
def takes_nothing() -> None:
    """Be a callback that no chord can call: it has a result for it."""
