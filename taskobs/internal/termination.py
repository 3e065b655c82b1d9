"""Calls a function before a signal ends the process by its default action.

A process that SIGTERM ends by its default action runs neither ``atexit`` hooks nor ``finally``
blocks. Examples are Flask's and Django's development servers, uvicorn at its end, and most scripts.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from taskobs.internal.wrapping import Patches

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals that ask a process to end, and do so by default. Python itself handles SIGINT, unless the
app restores its default action."""


def ignore_uwsgi_signals() -> None:
    """Have uWSGI not end this process in its exit hooks, which are bounded in time.

    In a worker, uWSGI's own handlers call ``exit()``, in C and in any thread (seen in 2.0.30). If a
    reload strikes a worker that is being recycled, that one would lose what it is sending.
    """
    if "uwsgi" in sys.modules:  # there only inside of uWSGI
        for number in SIGNALS:
            with suppress(ValueError):  # not the main thread
                signal.signal(number, signal.SIG_IGN)


class TerminationHook:
    """Calls ``action`` when one of ``SIGNALS`` is about to end this process by its default action.

    The process then ends by that signal, with the exit status that it would have had, and a second
    signal ends it at once. ``action`` must be bounded in time; what it raises is dropped.

    A handler of the app is never replaced. Code that later restores a signal's default action (as
    uvicorn and asyncio do after serving) installs this hook instead, and code that reads the
    handler gets ``SIG_DFL``, so that the hook is invisible.

    Python runs handlers between two bytecodes of the main thread. A process that is blocked in C
    code ends only when that code returns.
    """

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self._patches = Patches()
        # Stored once: each access to `self._handle` makes a new object, and `is` compares them.
        self._handler: Any = self._handle
        # The real functions, kept before anything wraps them.
        self._set, self._get = signal.signal, signal.getsignal

    def install(self) -> None:
        """Replace default actions from now on; has no effect outside of the main thread."""
        self._patches.wrap(signal, "signal", self._set_patched)
        self._patches.wrap(signal, "getsignal", self._get_patched)
        for number in SIGNALS:
            if self._get(number) is signal.SIG_DFL:
                with suppress(ValueError):  # not the main thread
                    self._set(number, self._handler)

    def remove(self) -> None:
        """Restore the default actions."""
        self._patches.remove()
        for number in SIGNALS:
            if self._get(number) is self._handler:
                with suppress(ValueError):
                    self._set(number, signal.SIG_DFL)

    def _handle(self, number: int, _frame: object) -> None:
        # First, so that a second signal ends the process while the action runs.
        self._set(number, signal.SIG_DFL)
        try:
            with suppress(Exception):
                self._action()
        finally:
            os.kill(os.getpid(), number)
            # Still running: the kernel ignores default actions in the first process of a
            # container.
            self._set(number, self._handler)

    def _set_patched(
        self, real: Callable[..., Any], _: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401  # a handler may be anything that can be called
        number, handler = [*args, *kwargs.values()][:2]
        if number in SIGNALS and handler is signal.SIG_DFL:
            handler = self._handler
        return self._shown(real(number, handler))

    def _get_patched(
        self, real: Callable[..., Any], _: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401  # see above
        return self._shown(real(*args, **kwargs))

    def _shown(self, handler: Any) -> Any:  # noqa: ANN401  # see above
        return signal.SIG_DFL if handler is self._handler else handler
