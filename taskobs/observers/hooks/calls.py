"""Calls hooks with each publish and each run."""

from __future__ import annotations

from contextlib import AbstractContextManager

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Span

from taskobs.internal.guard import Guard
from taskobs.model import Publish, Run
from taskobs.observers.base import Observer
from taskobs.observers.hooks.protocols import PublishHook, RunHook


class PublishHooks(Observer):
    """Calls a hook when a message is about to be sent; what it adds to the headers travels."""

    opens_last = True

    def __init__(self, on_publish: PublishHook, guard: Guard) -> None:
        self._on_publish = on_publish
        self._guard = guard

    def sending(self, publish: Publish) -> None:
        """Call it."""
        # Without spans, and for what has none, the current span is another one's.
        span = trace.get_current_span() if publish.has_span else INVALID_SPAN
        with self._guard:
            self._on_publish(publish, span)


class RunHooks(Observer):
    """Calls a hook when a run begins, and one when it has ended, each with a guard of its own."""

    opens_last = True

    def __init__(
        self,
        on_run: RunHook | None,
        run_guard: Guard,
        on_run_end: RunHook | None,
        end_guard: Guard,
    ) -> None:
        self._on_run, self._run_guard = on_run, run_guard
        self._on_run_end, self._end_guard = on_run_end, end_guard

    def run(self, run: Run) -> AbstractContextManager[object]:
        """Call them around a run."""
        return _HookedRun(self, run)

    def began(self, run: Run, span: Span) -> None:
        """Call ``on_run``; not for a run that is reported after its end."""
        if self._on_run is not None and run.outcome is None:
            with self._run_guard:
                self._on_run(run, span)

    def over(self, run: Run, span: Span) -> None:
        """Call ``on_run_end``; not where another process reports the run."""
        if self._on_run_end is not None and not run.abandoned:
            with self._end_guard:
                self._on_run_end(run, span)


class _HookedRun:
    """A run from one hook to the other: its span may not be the current one at its end."""

    __slots__ = ("_hooks", "_run", "_span")

    def __init__(self, hooks: RunHooks, run: Run) -> None:
        self._hooks = hooks
        self._run = run
        self._span = trace.get_current_span() if run.span is not None else INVALID_SPAN

    def __enter__(self) -> None:
        self._hooks.began(self._run, self._span)

    def __exit__(self, *_: object) -> None:
        self._hooks.over(self._run, self._span)
