"""What a session does about the relay, as the role of its process becomes known."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from taskobs.celery.roles import Role
from taskobs.config.settings import Settings
from taskobs.otel.provider import TraceProvider
from taskobs.otel.task_spans import shared_task_signals
from taskobs.relay_client.run_metrics import RunMetricObserver
from taskobs.session.relay_pipeline import RelayPipeline, supported

if TYPE_CHECKING:
    from taskobs.sentry.pipeline import SentryPipeline


class WorkerRelay:
    """The relay of the worker that this process belongs to, if it belongs to one that has one."""

    def __init__(self, settings: Settings) -> None:
        self._on = settings.relay and supported()
        self._settings = settings
        self._role = Role.PRODUCER
        self._pid = os.getpid()
        self._pipeline: RelayPipeline | None = None
        self._undo = ExitStack()

    @property
    def carries(self) -> bool:
        """Whether what this process records goes to a relay."""
        return self._pipeline is not None and not self._pipeline.unavailable

    def became(
        self,
        role: Role,
        worker: object,
        traces: TraceProvider | None,
        sentry: SentryPipeline | None,
    ) -> None:
        """Start a relay in a worker, or find it in a spawned child, and take over from direct."""
        self._role = role
        if self._pipeline is None and self._on and self._wanted(traces, sentry):
            self._begin(role, worker, traces)
        if self._pipeline is not None:
            self._pipeline.carry(traces, sentry, shared_task_signals().guard)

    def _wanted(self, traces: TraceProvider | None, sentry: SentryPipeline | None) -> bool:
        return sentry is not None or (traces is not None and traces.relays)

    def _begin(self, role: Role, worker: object, traces: TraceProvider | None) -> None:
        ours = traces is not None and traces.ours
        if role is Role.WORKER:
            self._on = False  # there is no second try
            self._pid = os.getpid()
            name = str(getattr(worker, "hostname", None) or "")
            # Celery sets up logging only after this, so that the logger's level says nothing yet.
            level = getattr(worker, "loglevel", None)
            self._pipeline = RelayPipeline.launch(
                self._settings, name, self._role_name, ours=ours, log_level=level
            )
        elif role is Role.POOL_CHILD:
            self._pipeline = RelayPipeline.join(self._role_name)
        if self._pipeline is None:
            return
        with ExitStack() as undo:
            undo.callback(self._pipeline.close)
            records = RunMetricObserver(
                self._pipeline.client, with_spans=traces is not None and traces.relays
            )
            shared_task_signals().attach(records)
            undo.callback(shared_task_signals().detach, records)
            self._undo = undo.pop_all()

    def poll(self) -> None:
        """Look after the relay; call it every second or so, in the worker. Returns at once."""
        if self._pipeline is not None:
            self._pipeline.poll()

    def metrics_destination(self, settings: Settings) -> str | None:
        """Say where the relay sends metrics; None if it sends none."""
        return settings.shown_metrics_endpoint if self.carries else None

    def flush(self, timeout: float) -> bool:
        """See what the relay has got sent, within ``timeout`` seconds; True without a relay."""
        return self._pipeline is None or self._pipeline.flush(timeout)

    def end(self, timeout: float) -> bool:
        """Hand over what waits, as this process ends; in the worker, see it sent."""
        return self._pipeline is None or self._pipeline.end(timeout)

    def close(self) -> None:
        """Put the direct pipeline back; the next worker in this process has a relay of its own."""
        self._on = self._on or self._pipeline is not None
        self._undo.close()
        self._pipeline = None

    def _role_name(self) -> str:
        """Name the role of this process: a forked child hears of its own late, or never."""
        forked = os.getpid() != self._pid and self._role is Role.WORKER
        return (Role.POOL_CHILD if forked else self._role).value
