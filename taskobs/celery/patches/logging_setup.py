"""Gives handlers another formatter when Celery, or the app in its place, has set up logging."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from celery.app.log import Logging, TaskFormatter
from celery.utils.log import ColorFormatter

from taskobs.internal.guard import Guard
from taskobs.internal.wrapping import Patches

_PLAIN: Final[frozenset[type[object]]] = frozenset(
    {type(None), logging.Formatter, ColorFormatter, TaskFormatter}
)
"""Formatters that only have a format: Celery's own, and those of a logging configuration."""
_LOGGERS: Final = ("", "celery", "celery.task", "celery.redirected", "multiprocessing")
"""Those that Celery gives handlers, or whose handlers it keeps."""


class LoggingSetup:
    """Sets a formatter on the handlers of the root logger and of Celery's loggers.

    ``Logging.setup`` is called in workers and beat, whoever sets up the handlers: Celery, or an app
    that connects ``setup_logging``, after which no other signal is sent (seen in 5.3 to 5.7).
    Handlers whose formatter is of a class of the app's own stay as they are.
    """

    def __init__(self, formatter: logging.Formatter, guard: Guard) -> None:
        self._formatter, self._guard = formatter, guard
        self._patches = Patches()
        self._replaced: list[tuple[logging.Handler, logging.Formatter | None]] = []

    def install(self) -> None:
        """Set it whenever logging is set up from now on."""
        self._patches.wrap(Logging, "setup", self._set_up)

    def apply(self) -> None:
        """Set it on the handlers that there are."""
        for logger in map(logging.getLogger, _LOGGERS):
            for handler in logger.handlers:
                found = handler.formatter
                if type(found) in _PLAIN and _writes(handler):
                    self._replaced.append((handler, found))
                    handler.setFormatter(self._formatter)

    def remove(self) -> None:
        """Put back the formatters that were there."""
        self._patches.remove()
        while self._replaced:
            handler, before = self._replaced.pop()
            if handler.formatter is self._formatter:
                handler.setFormatter(before)

    def _set_up(
        self, call: Callable[..., Any], _: object, args: tuple[Any, ...], named: dict[str, Any]
    ) -> object:
        result = call(*args, **named)
        with self._guard:
            self.apply()
        return result


def _writes(handler: logging.Handler) -> bool:
    """Tell whether a handler writes lines; others, as those of Sentry, have uses of their own."""
    return isinstance(handler, logging.StreamHandler)  # of which a FileHandler is one
