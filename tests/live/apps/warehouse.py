"""Tasks that only the worker of the shop knows: whoever else wants one sends its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.live.apps.shop import app

if TYPE_CHECKING:
    from celery import Task


@app.task
def restock(number: int) -> int:
    """Succeed."""
    return number


@app.task
def charge(card: str, *, code: str) -> None:
    """Fail, and keep to itself what it was given."""
    if card and code:
        msg = "declined"
        raise ValueError(msg)


@app.task(bind=True)
def retries_wrongly(self: Task[Any, Any]) -> None:
    """Retry with an argument that it does not take."""
    raise self.retry(kwargs={"x": 1}, exc=ValueError("busy"))


def _broken(*_: object) -> None:
    msg = "the hook is broken"
    raise RuntimeError(msg)


@app.task(on_success=_broken)
def broken_on_success() -> str:
    """Succeed, and fail to tell."""
    return "done"


@app.task(after_return=_broken)
def broken_after_return() -> str:
    """Succeed, and fail to clean up."""
    return "done"


@app.task(on_failure=_broken)
def broken_on_failure() -> None:
    """Fail, and fail to tell."""
    msg = "boom"
    raise ValueError(msg)
