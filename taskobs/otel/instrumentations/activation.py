"""Activates the instrumentors that a setting asks for."""

from __future__ import annotations

import sys
from collections.abc import Collection
from contextlib import ExitStack
from functools import partial
from typing import Protocol

from taskobs.internal.import_hooks import ImportWatch
from taskobs.internal.import_lock import importing
from taskobs.internal.instrumentors import Instrumentation, chosen
from taskobs.otel.instrumentations.django_site import DjangoInstrumentation
from taskobs.otel.instrumentations.library import LibraryInstrumentation
from taskobs.otel.instrumentations.loading import STAYS, load, trying
from taskobs.otel.instrumentations.statements import SqlalchemyInstrumentation
from taskobs.otel.instrumentations.web_apps import FRAMEWORKS, WebInstrumentation


class _Activated(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


class Instrumentations:
    """Activates instrumentors, each when its library is imported, from ``start`` to ``stop``."""

    def __init__(self, instrument: bool | Collection[str]) -> None:  # noqa: FBT001  # a setting
        self._instrument = instrument
        self._waiting: dict[str, tuple[Instrumentation, tuple[str, ...]]] = {}
        self._watch: ImportWatch | None = None
        self._undo = ExitStack()
        self.names: list[str] = []
        """Of what is instrumented, in the order in which it was."""

    def start(self) -> None:
        """Begin, or look once more at libraries whose import had not ended; never raises."""
        if self._watch is not None:
            self._watch.look()
        elif self._instrument:
            found = chosen(self._instrument)
            self._waiting = {one.name: (one, one.modules()) for one in found}
            modules = {module for _, modules in self._waiting.values() for module in modules}
            self._watch = ImportWatch(modules, self._activate)
            self._undo.callback(self._watch.remove)
            self._watch.install()

    def stop(self) -> None:
        """Undo all of it; what the app has activated stays active."""
        self._undo.close()
        self._watch = None
        self.names.clear()

    def _activate(self) -> None:
        for name, (instrumentation, modules) in list(self._waiting.items()):
            there = any(module in sys.modules for module in modules)
            # Whoever takes it out activates it: several threads may import libraries.
            if there and self._waiting.pop(name, None) is not None:
                # Not waiting, as this may be called within an import: see ``importing``.
                with importing(wait=False), trying(name):
                    self._start(instrumentation)

    def _start(self, instrumentation: Instrumentation) -> None:
        activated = _activated(instrumentation)
        if activated is not None:
            self._undo.callback(partial(_stop, instrumentation.name, activated))
            activated.start()
            self.names.append(instrumentation.name)


def _stop(name: str, activated: _Activated) -> None:
    with trying(name, STAYS):
        activated.stop()


def _activated(instrumentation: Instrumentation) -> _Activated | None:
    if instrumentation.name == "django":
        return DjangoInstrumentation(instrumentation)
    instrumentor = load(instrumentation)
    if instrumentor is None or instrumentor.is_instrumented_by_opentelemetry:
        return None  # the app's own stays as it is
    if instrumentation.name in FRAMEWORKS and hasattr(instrumentor, "instrument_app"):
        return WebInstrumentation(instrumentation.name, instrumentor)
    if instrumentation.name == "sqlalchemy":
        return SqlalchemyInstrumentation(instrumentor)
    return LibraryInstrumentation(instrumentor)
