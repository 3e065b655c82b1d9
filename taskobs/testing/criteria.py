"""Refuses what no record can have, as a test for its absence would always pass by it."""

from __future__ import annotations

from typing import get_args

from taskobs.testing.records import OutcomeName
from taskobs.testing.report import nearest


def checked_task(task: object) -> str | None:
    """Return the name of a task, or None.

    Raises:
        TypeError: it is something else, such as the task itself.
    """
    if task is None or isinstance(task, str):
        return task
    name: object = getattr(task, "name", None)
    hint = f": write {name!r}" if isinstance(name, str) else ""
    raise TypeError(f"the name of a task is needed, not {type(task).__name__}{hint}")


def checked_outcome(outcome: str | None) -> None:
    """Let the name of an outcome pass, or None.

    Raises:
        ValueError: there is no such outcome.
    """
    names: tuple[str, ...] = get_args(OutcomeName)
    if outcome is not None and outcome not in names:
        hint = nearest(outcome, names)
        raise ValueError(f"there is no outcome {outcome!r}.{hint} It is one of {', '.join(names)}")
