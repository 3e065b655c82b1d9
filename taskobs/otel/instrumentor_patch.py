"""Makes ``CeleryInstrumentor()`` return a session's instrumentor, once a process imports it.

The stock module and its imports take 1.5 MB and 50 ms, and most processes don't need them.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from importlib import import_module
from typing import Final

from taskobs import semconv
from taskobs.internal.guard import Guard
from taskobs.internal.import_hooks import when_imported
from taskobs.otel.task_spans import TaskSpans

_OURS: Final = "taskobs.otel.instrumentor"


def is_instrumented() -> bool:
    """Whether somebody has called ``TaskInstrumentor().instrument()``."""
    kind = getattr(sys.modules.get(_OURS), "TaskInstrumentor", None)
    return kind is not None and bool(kind().is_instrumented_by_opentelemetry)


class InstrumentorPatch:
    """Makes ``CeleryInstrumentor()`` return a ``TaskInstrumentor`` with a session's spans.

    From ``install`` to ``remove``, as soon as the stock module has been imported.
    """

    def __init__(self, spans: TaskSpans, guard: Guard) -> None:
        self._spans = spans
        self._guard = guard
        self._undo = ExitStack()

    def install(self) -> None:
        """Replace the stock instrumentor now, or when its module is imported."""
        self._undo.callback(when_imported(semconv.STOCK_SCOPE, self._stock_is_here))
        # Our module imports the stock one. If ours is imported first, it isn't complete when
        # the stock module is: so ours is waited for, too.
        self._undo.callback(when_imported(_OURS, self._ours_is_here))

    def remove(self) -> None:
        """Restore the stock instrumentor."""
        self._undo.close()

    def _stock_is_here(self) -> None:
        with self._guard:
            import_module(_OURS)

    def _ours_is_here(self) -> None:
        with self._guard:
            from taskobs.otel.instrumentor import activate_for_session, deactivate_for_session

            if activate_for_session(self._spans):
                self._undo.callback(deactivate_for_session, self._spans)
