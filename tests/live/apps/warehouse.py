"""Tasks that only the worker of the shop knows: whoever else wants one sends its name."""

from __future__ import annotations

from tests.live.apps.shop import app


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
