"""Keeps OpenTelemetry's context in threads that Sentry's ThreadingIntegration starts.

Sentry puts a function of its own in the place of a thread's ``run`` when the thread starts. It
takes ``run.__func__`` for that, which is the function under any wrapper of ``wrapt``. The
ThreadingInstrumentor of OpenTelemetry is such a wrapper, so the thread would run without the
context that the instrumentor has noted (seen in sentry-sdk 2.75).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from inspect import getattr_static
from types import MethodType
from typing import Any, Final

import sentry_sdk
from wrapt import FunctionWrapper

from taskobs.internal.wrapping import Patches

_INTEGRATION: Final = "threading"


class ThreadContextPatch:
    """Has Sentry take a thread's ``run`` with its wrappers, from ``install`` to ``remove``."""

    def __init__(self) -> None:
        self._patches = Patches()

    def install(self) -> None:
        """Wrap ``start`` of threads and timers; around Sentry's wrapper, so after that is there.

        OpenTelemetry wraps ``Timer.start`` by itself, and with it what ``Thread.start`` was then.
        """
        for kind in (threading.Thread, threading.Timer):
            self._patches.wrap(kind, "start", _start)

    def remove(self) -> None:
        """Unwrap it."""
        self._patches.remove()


def _start(
    start: Callable[..., object],
    thread: threading.Thread,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> object:
    integrations: Any = getattr(sentry_sdk.get_client(), "integrations", ())  # none without a DSN
    if _INTEGRATION in integrations and _is_wrapped(thread):
        # An attribute of the thread, whose ``__func__`` is what Sentry should call. Sentry replaces
        # the attribute at once, so no reference from the thread to itself is left.
        vars(thread)["run"] = MethodType(_run, thread)
    return start(*args, **kwargs)


def _is_wrapped(thread: threading.Thread) -> bool:
    wrapped = isinstance(getattr_static(type(thread), "run"), FunctionWrapper)
    return wrapped and "run" not in vars(thread)


def _run(thread: threading.Thread) -> None:
    type(thread).run(thread)
