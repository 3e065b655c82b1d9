from __future__ import annotations

import logging

import pytest

from taskobs.internal.guard import Guard


class Soft(Exception):  # noqa: N818  # named as Celery's own would be
    pass


def test_trouble_is_logged_once_a_kind_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """I read of each kind of trouble once, and the count tells how often it was."""
    guard = Guard()
    for error in (KeyError("a"), KeyError("b"), ValueError("c"), KeyError("d")):
        with caplog.at_level(logging.WARNING), guard:
            raise error
    assert len(caplog.records) == 2
    assert guard.counts == {"builtins.KeyError": 3, "builtins.ValueError": 1}


def test_strict_raises_and_counts() -> None:
    """In tests, trouble is raised."""
    guard = Guard(strict=True)
    with pytest.raises(KeyError), guard:
        raise KeyError("a")
    assert guard.counts == {"builtins.KeyError": 1}


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), Soft()])
def test_what_is_meant_for_the_task_passes(error: BaseException) -> None:
    """An interrupt, an exit and a soft time limit are never swallowed."""
    guard = Guard(passing=(Soft,))
    with pytest.raises(type(error)), guard:
        raise error
    assert not guard.counts


def test_nothing_wrong_is_nothing() -> None:
    """A guard around what works does nothing."""
    guard = Guard(strict=True)
    with guard:
        pass
    assert not guard.counts
