"""Check the functions that are given as hooks: see ``taskobs.config.checks``."""

from __future__ import annotations

import inspect
from typing import Any, Final

from taskobs.config.checks import Refused, ValueCheck


class _Code(str):
    """Python that is shown as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _hook(value: object, record: str) -> object:
    example = _Code(f"lambda {record}, span: ...")
    if not callable(value):
        raise Refused("not callable", example)
    call = type(value).__call__
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(call):
        raise Refused("a coroutine function, which nobody awaits here", example)
    try:
        inspect.signature(value).bind(None, None)
    except TypeError:
        problem = f"not callable with two arguments, the {record} and its span"
        raise Refused(problem, example) from None
    except ValueError:
        pass  # a function of C that has no signature
    return value


def _publish_hook(value: object) -> object:
    return _hook(value, "publish")


def _run_hook(value: object) -> object:
    return _hook(value, "run")


def name_of(hook: object) -> str:
    """Return the name by which a log line says which function it is; never a value in it."""
    named: Any = hook if hasattr(hook, "__qualname__") else type(hook)
    return f"{named.__module__}.{named.__qualname__}"


PUBLISH_HOOK: Final = ValueCheck(_publish_hook, name_of)
RUN_HOOK: Final = ValueCheck(_run_hook, name_of)
