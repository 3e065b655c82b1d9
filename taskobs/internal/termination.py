"""Do something before a signal ends the process outright.

A process that SIGTERM ends by its default action runs no exit hooks: not ``atexit``, not a
``finally``. Flask's and Django's development servers, uvicorn at its end, and most scripts are
such processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from taskobs.internal.wrapping import Patches

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals whose default action ends a process, and that ask it to end. Python itself handles
SIGINT, unless somebody gives it back its default action."""


class TerminationHook:
    """Calls ``action`` when one of ``SIGNALS`` is about to end this process by its default action.

    The process then ends by that signal, with the exit status that it would have had, and a second
    signal ends it at once. ``action`` must be bounded in time; what it raises is dropped.

    A handler of the app's own is never replaced. Whoever gives a signal back its default action
    later (uvicorn and asyncio do, when they have served) gets this hook instead, and whoever asks
    for the handler is told that it is the default one: nobody has to know of the hook.

    Python runs handlers between two bytecodes of the main thread. A process that is stuck in C code
    at that time ends only when that code returns.
    """

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self._patches = Patches()
        # One object: `self._handle` makes a new one at each access, and ours is told by identity.
        self._handler: Any = self._handle
        # The real functions, whatever wraps them later.
        self._set, self._get = signal.signal, signal.getsignal

    def install(self) -> None:
        """Take the place of default actions from now on; nothing outside of the main thread."""
        self._patches.wrap(signal, "signal", self._set_patched)
        self._patches.wrap(signal, "getsignal", self._get_patched)
        for number in SIGNALS:
            if self._get(number) is signal.SIG_DFL:
                with suppress(ValueError):  # this is not the main thread
                    self._set(number, self._handler)

    def remove(self) -> None:
        """Give the default actions back."""
        self._patches.remove()
        for number in SIGNALS:
            if self._get(number) is self._handler:
                with suppress(ValueError):
                    self._set(number, signal.SIG_DFL)

    def _handle(self, number: int, _frame: object) -> None:
        # First, so that a second signal doesn't wait for the action.
        self._set(number, signal.SIG_DFL)
        try:
            with suppress(Exception):
                self._action()
        finally:
            os.kill(os.getpid(), number)
            # Still here: the kernel ignores default actions for the first process of a container.
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
