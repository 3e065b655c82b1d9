"""Django's instrumentor, which puts a middleware into the settings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from taskobs.internal.instrumentors import Instrumentation
from taskobs.internal.wrapping import Patches
from taskobs.otel.instrumentations.library import LibraryInstrumentation
from taskobs.otel.instrumentations.loading import load, trying

_HANDLERS: Final = "django.core.handlers.base"


class DjangoInstrumentation:
    """Activates it just before Django reads which middleware there is, in processes that serve.

    Then the settings can be read: at the import of Django they can't, and ``init()`` may stand in a
    module that they import. A worker reads no middleware.
    """

    def __init__(self, instrumentation: Instrumentation) -> None:
        self._instrumentation = instrumentation
        self._patches = Patches()
        self._library: LibraryInstrumentation | None = None
        self._begun = False

    def start(self) -> None:
        """Wait for that."""
        handler = sys.modules[_HANDLERS].BaseHandler
        self._patches.wrap(handler, "load_middleware", self._load_middleware)

    def stop(self) -> None:
        """Undo it; a handler keeps the middleware that it has."""
        self._patches.remove()
        if self._library is not None:
            self._library.stop()

    def _load_middleware(
        self, read: Callable[..., Any], _: object, args: tuple[Any, ...], named: dict[str, Any]
    ) -> object:
        if not self._begun:
            self._begun = True
            with trying(self._instrumentation.name):
                self._activate()
        return read(*args, **named)

    def _activate(self) -> None:
        instrumentor = load(self._instrumentation)
        if instrumentor is not None and not instrumentor.is_instrumented_by_opentelemetry:
            self._library = LibraryInstrumentation(instrumentor)
            self._library.start()
