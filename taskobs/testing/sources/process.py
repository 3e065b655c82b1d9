"""All telemetry of this process goes to a recording, for as long as a test."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

from celery import signals

from taskobs.celery.active import current_run
from taskobs.observers.log_capture import LogCapture
from taskobs.otel.resource import resource_of
from taskobs.otel.task_spans import shared_task_signals
from taskobs.session.environment import AppName
from taskobs.session.session import Session
from taskobs.testing.recording import Recording
from taskobs.testing.records import Metric
from taskobs.testing.sources import errors
from taskobs.testing.sources.measurements import TestMeters, metrics_of_families
from taskobs.testing.sources.observing import Begins, Ends
from taskobs.testing.sources.received import ReceivedTelemetry
from taskobs.testing.sources.session import (
    app_session_suspended,
    embedded_workers,
    sdk_enabled,
    session_of_test,
    settings_of_test,
)
from taskobs.testing.sources.spans import TestSpans
from taskobs.testing.telemetry import TIMEOUT, Telemetry

_UID: Final = "taskobs.testing.worker_shutdown"


class TestProcess:
    """What all tests of a process share; ``recorded`` gives each its own recording."""

    __test__ = False  # pytest: no class of tests

    def __init__(self) -> None:
        with sdk_enabled():
            settings = settings_of_test()
            self._spans = TestSpans(resource_of(settings, AppName()))
            self._meters = TestMeters()
        self._received = ReceivedTelemetry()
        self._open_traces: set[str] = set()
        """Of runs that went on when their test ended."""

    def close(self) -> None:
        """Stop the receiver, if a test has started it."""
        self._received.close()

    @contextmanager
    def recorded(self, *, timeout: float = TIMEOUT) -> Generator[Telemetry]:
        """Record all telemetry of a block, which leaves the process as it was."""
        recording = Recording(self._open_traces)
        with ExitStack() as undo:
            self._spans.note()
            undo.enter_context(sdk_enabled())
            settings = settings_of_test()
            undo.enter_context(app_session_suspended())
            undo.enter_context(self._spans.collecting(recording.take_span))
            undo.enter_context(errors.collecting(recording.take_envelope))
            self._capture_logs(recording, undo)
            source = _Source(recording, self._meters, self._received)
            undo.callback(signals.worker_shutdown.disconnect, dispatch_uid=_UID)
            # Before the session's own receiver, which takes what was counted away.
            signals.worker_shutdown.connect(source.keep_counts, weak=False, dispatch_uid=_UID)
            source.session = undo.enter_context(session_of_test(settings))
            self._observe(recording, undo)
            self._meters.begin()
            undo.enter_context(self._received.to(recording))
            undo.callback(self._leave, recording, timeout)
            yield Telemetry(source, timeout=timeout)

    def _leave(self, recording: Recording, timeout: float) -> None:
        recording.wait(lambda: not recording.running, timeout)
        self._open_traces = recording.open_traces

    def _capture_logs(self, recording: Recording, undo: ExitStack) -> None:
        capture = LogCapture(current_run, recording.take_log, shared_task_signals().guard)
        undo.callback(capture.remove)
        capture.install()

    def _observe(self, recording: Recording, undo: ExitStack) -> None:
        task_signals = shared_task_signals()
        begins, ends = Begins(recording), Ends(recording)
        undo.callback(task_signals.detach, begins)
        undo.callback(task_signals.detach, ends)
        task_signals.attach(begins)
        task_signals.attach(ends, first=True)


class _Source:
    """See `telemetry.Source`."""

    def __init__(
        self, recording: Recording, meters: TestMeters, received: ReceivedTelemetry
    ) -> None:
        self.recording = recording
        self.session: Session | None = None
        self._meters, self._received = meters, received
        self._kept: tuple[Metric, ...] = ()
        """What a worker has counted that has stopped."""

    @property
    def receives(self) -> bool:
        """Whether workers in other processes send what they record, each kind for itself."""
        return self._received.in_use

    def may_run(self) -> bool:
        """Tell whether there is a worker that may run what is pending."""
        return self.receives or bool(embedded_workers())

    def keep_counts(self, **_: object) -> None:
        """Keep what the worker that stops now has counted."""
        self._kept = self._counted()

    def metrics(self) -> tuple[Metric, ...]:
        """Return what was measured since the test began."""
        return (*self._meters.metrics(), *(self._counted() or self._kept))

    def _counted(self) -> tuple[Metric, ...]:
        session = self.session
        return () if session is None else metrics_of_families(session.metric_families())

    def worker_environment(self) -> Mapping[str, str]:
        """Return variables that make a worker in another process send its telemetry here."""
        return self._received.environment()
