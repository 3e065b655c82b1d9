"""All telemetry of this process goes to a recording, for as long as a test."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

from celery import signals

from taskobs import semconv
from taskobs.celery.active import current_run
from taskobs.observers.log_capture import LogCapture
from taskobs.otel.resource import resource_of
from taskobs.otel.task_spans import shared_task_signals
from taskobs.session.environment import AppName
from taskobs.session.session import Session, current_settings
from taskobs.testing.recording import Recording
from taskobs.testing.records import Metric
from taskobs.testing.sources import errors
from taskobs.testing.sources.measurements import TestMeters, added, metrics_of_families
from taskobs.testing.sources.observing import Observing
from taskobs.testing.sources.received import ReceivedTelemetry
from taskobs.testing.sources.session import (
    SessionOfTest,
    embedded_workers,
    sdk_enabled,
    settings_of_test,
)
from taskobs.testing.sources.spans import TestSpans
from taskobs.testing.telemetry import TIMEOUT, Telemetry

_TICK: Final = 0.005
"""Seconds between two looks at what a worker has counted, which it tells nobody."""
_UID: Final = "taskobs.testing.worker_shutdown"


class TestProcess:
    """What all tests of a process share; ``recorded`` gives each its own recording."""

    __test__ = False  # pytest: no class of tests

    def __init__(self) -> None:
        with sdk_enabled():
            settings = settings_of_test(current_settings())
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
        source = _Source(recording, self._meters, self._received, timeout)
        observing = Observing(recording)

        def started() -> None:
            observing.attach()
            self._meters.use()

        with ExitStack() as undo:
            self._spans.note()
            undo.enter_context(sdk_enabled())
            of_test = undo.enter_context(SessionOfTest(started))
            source.session = of_test.session
            undo.enter_context(self._spans.collecting(recording.take_span))
            undo.enter_context(errors.collecting(recording.take_envelope))
            self._capture_logs(recording, undo)
            undo.callback(signals.worker_shutdown.disconnect, dispatch_uid=_UID)
            # Before the session's own receiver, which takes what was counted away.
            signals.worker_shutdown.connect(source.keep_counts, weak=False, dispatch_uid=_UID)
            self._meters.begin()
            undo.callback(observing.detach)
            undo.callback(of_test.stop)
            of_test.start()
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


class _Source:
    """See `findings.Source`."""

    def __init__(
        self,
        recording: Recording,
        meters: TestMeters,
        received: ReceivedTelemetry,
        timeout: float,
    ) -> None:
        self.recording = recording
        self._timeout = timeout
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
        self._kept = added(self._kept, self._counted())

    def metrics(self) -> tuple[Metric, ...]:
        """Return what was measured since the test began."""
        self.recording.wait(self._all_counted, self._timeout, _TICK)
        return (*self._meters.metrics(), *added(self._kept, self._counted()))

    def _all_counted(self) -> bool:
        """Tell whether a worker has counted all runs that have ended: it does so after their end.

        Where nothing that it has received is counted, no run is.
        """
        counted = self._counted()
        received = sum(one.value for one in counted if one.name == semconv.METRIC_TASK_RECEIVED)
        ended = sum(one.count for one in counted if one.name == semconv.METRIC_TASK_DURATION)
        return ended >= min(received, self.recording.ended_in_worker)

    def _counted(self) -> tuple[Metric, ...]:
        session = self.session
        return () if session is None else metrics_of_families(session.metric_families())

    def worker_environment(self, host: str) -> Mapping[str, str]:
        """Return variables that make a worker in another process send its telemetry here."""
        return self._received.environment(host)
