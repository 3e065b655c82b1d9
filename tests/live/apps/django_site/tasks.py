"""The project's tasks."""

from __future__ import annotations

from celery import shared_task


@shared_task
def add(x: int, y: int) -> int:
    """Succeed."""
    return x + y


@shared_task
def fail() -> None:
    """Fail."""
    raise ValueError("no funds")
