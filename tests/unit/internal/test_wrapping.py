"""Wrapping what is somebody else's, and leaving it as it was."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable
from typing import Any

import pytest
import wrapt

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


def test_a_function_stays_a_function_of_its_name_and_signature() -> None:
    """Who looks at what is wrapped sees what is under it."""
    patches = Patches()
    patches.wrap(Base, "greet", twice)
    assert isinstance(vars(Base)["greet"], types.FunctionType)
    assert (Base.greet.__name__, Base.greet.__doc__) == ("greet", "Say hello.")
    assert str(inspect.signature(Base.greet)) == "(self) -> 'str'"
    assert Base.greet(Base()) == "hellohello"
    patches.remove()


def test_a_call_without_an_instance_fails_as_without_a_wrapper() -> None:
    """Calling a method on its class alone is the caller's mistake, and is told so."""
    patches = Patches()
    patches.wrap(Base, "greet", twice)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'self'"):
        Base.greet()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    patches.remove()


def instances(wrapped: Callable[..., str], one: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """Give what it is called with, and what is wrapped says."""
    return one, args, kwargs, wrapped(*args, **kwargs)


def theirs(wrapped: Callable[..., int], _: Any, args: tuple[Any, ...], kwargs: Any) -> int:
    """Be another tool's wrapper, which changes nothing."""
    return wrapped(*args, **kwargs)


def plain(number: int) -> int:
    """Return the number."""
    return number


class Bound:
    """Has methods that bind in other ways."""

    @staticmethod
    def alone(number: int) -> int:
        """Return the number."""
        return number

    @classmethod
    def of_class(cls, number: int) -> object:
        """Return the class and the number."""
        return cls, number

    def wrapped_already(self, number: int) -> int:
        """Return the number."""
        return number


def test_what_binds_in_another_way_is_called_as_it_binds() -> None:
    """A static method, a class method and another tool's wrapper are wrapped as well."""
    wrapt.wrap_function_wrapper(Bound, "wrapped_already", theirs)
    patches, it = Patches(), Bound()
    for name in ("alone", "of_class", "wrapped_already"):
        patches.wrap(Bound, name, instances)
    found: Any = it
    assert found.alone(1) == (None, (1,), {}, 1)
    assert found.of_class(1) == (Bound, (1,), {}, (Bound, 1))
    assert found.wrapped_already(1) == (it, (1,), {}, 1)
    patches.remove()
    assert (it.alone(1), it.of_class(1), it.wrapped_already(1)) == (1, (Bound, 1), 1)


def test_a_function_of_a_module_is_given_no_instance() -> None:
    """Whether it is written in Python or in C."""
    module: Any = types.ModuleType("module")
    module.plain, module.of_c = plain, math.floor
    patches = Patches()
    patches.wrap(module, "plain", instances)
    patches.wrap(module, "of_c", instances)
    assert module.plain(2) == (None, (2,), {}, 2)
    assert module.of_c(2.5) == (None, (2.5,), {}, 2)
    patches.remove()
    assert (module.plain(2), module.of_c) == (2, math.floor)


def test_a_wrapper_under_another_one_does_nothing_once_removed() -> None:
    """Somebody wrapped what we had wrapped: after `close()` it calls what was there before us."""
    patches = Patches()
    before = Base.greet
    patches.wrap(Base, "greet", twice)
    under = Base.greet
    Base.greet = lambda self: f"<{under(self)}>"  # type: ignore[method-assign]
    patches.remove()
    assert Base().greet() == "<hello>"
    Base.greet = before  # type: ignore[method-assign]
