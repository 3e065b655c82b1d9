"""Wrapping what is somebody else's, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from taskobs.internal.wrapping import Patches


class Base:
    """Has a method of its own."""

    def greet(self) -> str:
        """Say hello."""
        return "hello"


class Inherits(Base):
    """Has none of its own."""


def twice(wrapped: Callable[..., str], _: Any, args: tuple[Any, ...], kwargs: Any) -> str:
    """Call it twice."""
    return wrapped(*args, **kwargs) + wrapped(*args, **kwargs)


@pytest.mark.parametrize("target", [Base, Inherits])
def test_a_method_is_wrapped_and_unwrapped(target: type[Base]) -> None:
    """It makes no difference whether a class has the method itself or inherits it."""
    before = dict(vars(target))
    patches = Patches()
    patches.wrap(target, "greet", twice)
    assert target().greet() == "hellohello"
    patches.remove()
    assert target().greet() == "hello"
    assert dict(vars(target)) == before


def test_a_base_class_is_left_alone() -> None:
    """Wrapping what a class inherits changes nothing for other classes."""
    patches = Patches()
    patches.wrap(Inherits, "greet", twice)
    assert Base().greet() == "hello"
    patches.remove()
