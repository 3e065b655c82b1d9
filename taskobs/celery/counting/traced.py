"""Runs a task where its pool runs it, and hands what only that process knows on with the result.

Celery's pools take the result of a run to the worker's main process, which counts it. So what is
added here is as safe as the result itself: there is nothing to lose with a pool child that dies.
"""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from time import monotonic, thread_time
from typing import Any, Final, NamedTuple

from celery.app import trace

from taskobs.model import Outcome, Run
from taskobs.observers.attributes import type_of
from taskobs.observers.base import Observer

_PARTS: Final = 4
"""Celery's own result of a run has three."""
_runs: Final[dict[str, Run | None]] = {}
"""By task id, the runs that are traced now; their records once they have ended."""


class Figures(NamedTuple):
    """What the process of a run knows of it. A plain tuple on its way to the main process."""

    outcome: str
    seconds: float
    """By the run's own clock."""
    cpu: float
    """Seconds of CPU time of the run's thread."""
    error: str | None
    """The type of the exception that made it fail."""
    expected: bool
    trace: int
    """The id of its trace; 0 if that is not sampled."""


class RunFigures(Observer):
    """Notes the record of each run that is traced."""

    def ended(self, run: Run) -> None:
        """Note how a run ended: Celery's result says less, and calls some failures rejects."""
        if run.task_id in _runs and not run.eager:
            _runs[run.task_id] = run


def traced_fast(task: Any, uuid: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Do what Celery's ``fast_trace_task`` does; it serves prefork pools that fork."""
    return _traced(trace.fast_trace_task, task, uuid, *args, **kwargs)


def traced(task: Any, uuid: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Do what Celery's ``trace_task_ret`` does."""
    return _traced(trace.trace_task_ret, task, uuid, *args, **kwargs)


def tracer_for(app: Any) -> Any:
    """Return what to run an app's tasks with; the pool's processes import it by its name."""
    return traced_fast if app.use_fast_trace_task else traced


def _traced(run: Any, task: Any, uuid: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    _runs[uuid] = None
    began, cpu = monotonic(), thread_time()
    try:
        failed, result, runtime = run(task, uuid, *args, **kwargs)
    except Exception:
        # The pool reports it; the main process makes of it what it can. Other exceptions end this
        # process, or the greenlet of the run, where ``left_by`` takes the record.
        _runs.pop(uuid, None)
        raise
    record = _runs.pop(uuid, None)
    figures: tuple[Any, ...] | None
    if not failed and record is not None and record.outcome is Outcome.SUCCEEDED:
        figures = _succeeded(record, runtime, thread_time() - cpu)
    else:
        figures = _figures(record, monotonic() - began, thread_time() - cpu)
    return failed, result, runtime, figures


def _succeeded(run: Run, runtime: float, cpu: float) -> tuple[Any, ...]:
    return "succeeded", runtime, cpu, None, False, _trace_of(run)


def _figures(run: Run | None, seconds: float, cpu: float) -> tuple[Any, ...] | None:
    if run is None or run.outcome is None:  # nobody observed; Celery's result has to do
        return None
    error = None if run.exception is None else type_of(run.exception)
    return run.outcome.value, seconds, cpu, error, run.expected, _trace_of(run)


def _trace_of(run: Run) -> int:
    span = run.span
    return span.trace if span is not None and span.sampled else 0


def split(result: Any) -> tuple[Any, tuple[Any, ...] | None]:
    """Return Celery's own part of what a pool brings, and ours: the fields of `Figures`."""
    parts: tuple[Any, ...] = result if type(result) is tuple else ()
    if len(parts) != _PARTS:
        return result, None
    failed, value, runtime, figures = parts
    return (failed, value, runtime), figures


def left_by(task_id: str) -> tuple[Any, ...] | None:
    """Return what is known of a run of this process that ended its thread or greenlet."""
    run = _runs.pop(task_id, None)
    if run is None:
        return None
    return _figures(run, monotonic() - run.ticks, 0.0)
