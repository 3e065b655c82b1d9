"""An instrumentor that patches a library as a whole."""

from __future__ import annotations

from typing import Final

from taskobs.otel.instrumentations.loading import Instrumentor

_METHOD: Final = "instrument"
_OF_THE_CALL: Final = frozenset({"skip_dep_check", "raise_exception_on_conflict"})
"""Options of the call itself: they change nothing in what is patched."""


class LibraryInstrumentation:
    """Keeps an instrumentor active until ``stop``, or until the app activates it itself.

    An instrumentor is one object in a process, which refuses a second ``instrument()`` with a
    warning. So the app's own call would be without effect, and its options lost.
    """

    def __init__(self, instrumentor: Instrumentor) -> None:
        self._instrumentor = instrumentor

    def start(self) -> None:
        """Activate it; raises what it raises."""
        self._instrumentor.instrument(skip_dep_check=True)
        # Of the object, so that it is found before the method of whichever class it is.
        vars(self._instrumentor)[_METHOD] = self._instrument_for_app

    def _instrument_for_app(self, **options: object) -> object:
        self._release()
        if not self._instrumentor.is_instrumented_by_opentelemetry:
            return self._instrumentor.instrument(**options)
        if options.keys() <= _OF_THE_CALL:
            return None  # it is active as the app wants it, and is the app's from now on
        self._instrumentor.uninstrument()
        return self._instrumentor.instrument(**options)

    def _release(self) -> bool:
        """Reveal the method of the class again; tell whether it was ours that was called."""
        return vars(self._instrumentor).pop(_METHOD, None) is not None

    def stop(self) -> None:
        """Undo what ``start`` did, unless the app has activated it since."""
        if self._release() and self._instrumentor.is_instrumented_by_opentelemetry:
            self._instrumentor.uninstrument()
