"""Imports instrumentors, and logs why one of them can't be used."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from typing import Final, Protocol, cast

from taskobs.celery.adapter.outcomes import PASSING
from taskobs.internal.instrumentors import Instrumentation

_log: Final = logging.getLogger("taskobs")
_IS_NOT: Final = "is not instrumented"
STAYS: Final = "may still be instrumented"


class Instrumentor(Protocol):
    """The part of OpenTelemetry's ``BaseInstrumentor`` that is used here."""

    @property
    def is_instrumented_by_opentelemetry(self) -> bool:
        """Whether it is active."""
        ...

    def instrument(self, **options: object) -> object:
        """Patch the library."""
        ...

    def uninstrument(self, **options: object) -> object:
        """Undo that."""
        ...


@contextmanager
def trying(name: str, consequence: str = _IS_NOT) -> Generator[None]:
    """Log what the instrumentation of a library raises, as one line: the app runs on.

    Not so for a soft time limit's signal: a task imports the library, and it is for the task.
    """
    try:
        yield
    except PASSING:
        raise
    except Exception as error:  # noqa: BLE001  # whatever the package raises
        first, *_ = str(error).splitlines() or [""]
        _log_failure(name, f"{type(error).__name__}: {first}", consequence)


def load(instrumentation: Instrumentation) -> Instrumentor | None:
    """Return the instrumentor for the installed library; None if none fits, after a line each.

    Of several packages that offer one, it is the one that the app has activated, or the first that
    fits: two would make each span twice.
    """
    name = instrumentation.name
    made: list[tuple[str, Instrumentor]] = []
    for entry_point in instrumentation.entry_points:
        with trying(name):
            made += _made(name, entry_point)
    # Stable, so that the order of the packages stays otherwise.
    made.sort(key=lambda one: not one[1].is_instrumented_by_opentelemetry)
    for other, _ in made[1:]:
        _log.info("taskobs: %s is instrumented by %s, and not by %s, too", name, made[0][0], other)
    return made[0][1] if made else None


def _made(name: str, entry_point: EntryPoint) -> list[tuple[str, Instrumentor]]:
    """Return an instrumentor; none, after a line, if it is not for the installed library."""
    # Imported here: it needs a parser of versions, and most apps ask for no instrumentor.
    from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts

    package = entry_point.dist
    conflict = None if package is None else get_dist_dependency_conflicts(package)
    if conflict is not None:
        _log_failure(name, str(conflict))
        return []
    return [(entry_point.value, cast("Instrumentor", entry_point.load()()))]


def _log_failure(name: str, problem: str, consequence: str = _IS_NOT) -> None:
    _log.warning("taskobs: %s %s: %s", name, consequence, problem)
