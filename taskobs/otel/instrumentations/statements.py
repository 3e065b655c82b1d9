"""SQLAlchemy's instrumentor, with one span for a statement whose driver is instrumented, too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.instrumentation.utils import suppress_instrumentation

from taskobs.internal.wrapping import Patches
from taskobs.otel._sdk_compat import has_statement_span
from taskobs.otel.instrumentations.library import LibraryInstrumentation
from taskobs.otel.instrumentations.loading import Instrumentor

_DIALECTS: Final = "sqlalchemy.engine.default"
_METHODS: Final = ("do_execute", "do_executemany", "do_execute_no_params")
"""What calls the driver, in the middle of SQLAlchemy's own span of the statement."""


class SqlalchemyInstrumentation(LibraryInstrumentation):
    """Also keeps drivers from making a second span of the same statement.

    Dialects with a method of their own for that, as psycopg2's for many rows, show both.
    """

    def __init__(self, instrumentor: Instrumentor) -> None:
        super().__init__(instrumentor)
        self._patches = Patches()

    def start(self) -> None:
        """Activate it; raises what it raises."""
        super().start()
        dialect = sys.modules[_DIALECTS].DefaultDialect
        for name in _METHODS:
            self._patches.wrap(dialect, name, _execute)

    def stop(self) -> None:
        """Undo what ``start`` did."""
        self._patches.remove()
        super().stop()


def _execute(
    call: Callable[..., Any], _: object, args: tuple[Any, ...], named: dict[str, Any]
) -> object:
    # An engine that was made before has no span of its own for it: the driver makes that.
    if not has_statement_span(named.get("context", args[-1])):
        return call(*args, **named)
    with suppress_instrumentation():
        return call(*args, **named)
