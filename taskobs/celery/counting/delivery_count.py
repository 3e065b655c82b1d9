"""Counts each message that a worker receives, and how it ended, exactly once."""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic as _monotonic
from time import time as _time
from typing import Any, Final

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from celery.exceptions import Ignore, Reject, Retry

from taskobs.celery.adapter.headers import eta_of, queue_wait
from taskobs.metrics.worker_table import Ended, TaskCounts
from taskobs.model import ExternalOutcome, Outcome
from taskobs.observers.attributes import type_of

_BY_EXCEPTION: Final = (
    (Retry, Outcome.RETRIED),
    (Reject, Outcome.REJECTED),
    (Ignore, Outcome.IGNORED),
)


class DeliveryCount:
    """Counts one delivery: its start once, and its end once, whichever is reported first."""

    __slots__ = ("_accepted", "_ended", "_fields", "_received", "_series", "_task")

    def __init__(
        self, counts: TaskCounts, queue: str, fields: Mapping[str, Any], task: Any
    ) -> None:
        """Count the message of a task (Celery's object)."""
        self._series = counts.received(queue)
        self._fields = fields
        self._task = task
        self._received = _monotonic()
        self._accepted: float | None = None
        self._ended = False

    def began(self, accepted: float) -> None:
        """Count the start of the run; ``accepted`` is its time by the monotonic clock."""
        self._accepted = accepted
        fields, prefetch = self._fields, accepted - self._received
        started = _time() - (_monotonic() - accepted)
        if fields.get("eta") is not None:
            eta = eta_of(fields)
            if eta is not None:
                prefetch = min(prefetch, started - eta)
        self._series.began(queue_wait(fields, started), prefetch if prefetch > 0 else 0.0)

    def over_limit(self, pid: int | None) -> None:
        """Note that the pool ends the process of the run."""
        self._series.over_limit(pid)

    def succeeded(self) -> None:
        """Count a run that had stored its success before its process died."""
        self._end(Ended(Outcome.SUCCEEDED.value, self._elapsed()))

    def brought(self, result: Any, figures: tuple[Any, ...] | None, *, with_cpu: bool) -> None:
        """Count what the pool brought: Celery's result of a run, and the fields of `Figures`."""
        if self._ended:
            return
        if figures is not None:
            outcome, seconds, cpu, error, expected, trace = figures
            cpu = cpu if with_cpu else 0.0
            if outcome == "succeeded":
                self._ended = True
                self._series.succeeded(seconds, cpu, trace)
            else:
                self._end(Ended(outcome, seconds, cpu, error, expected, trace))
        elif type(result) is tuple and not result[0]:
            self._end(Ended(Outcome.SUCCEEDED.value, result[2] or self._elapsed()))
        else:
            info = result[1] if type(result) is tuple else result
            self.failed(getattr(info, "exception", None))

    def failed(self, error: BaseException | None) -> None:
        """Count a run of which its exception is all that is known."""
        if isinstance(error, ExceptionWithTraceback):
            error = getattr(error, "exc", error)
        found = (outcome for kind, outcome in _BY_EXCEPTION if isinstance(error, kind))
        outcome = next(found, Outcome.FAILED)
        expected = isinstance(error, self._task.throws or ())
        name = None if error is None else type_of(error)
        self._end(Ended(outcome.value, self._elapsed(), error=name, expected=expected))

    def reported(self, external: ExternalOutcome) -> None:
        """Count an end that the run could not report."""
        if self._ended:
            return
        if external.started is None or external.outcome is Outcome.UNKNOWN:
            self._ended = True
            self._series.discard(external.outcome.value)
            return
        error = None if external.error is None else type_of(external.error)
        self._end(Ended(external.outcome.value, self._elapsed(), error=error))

    def _end(self, end: Ended) -> None:
        if not self._ended:
            self._ended = True
            self._series.ended(end)

    def _elapsed(self) -> float:
        accepted = self._accepted
        return 0.0 if accepted is None else max(0.0, _monotonic() - accepted)
