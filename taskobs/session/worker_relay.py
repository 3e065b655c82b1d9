"""Starts, joins and closes the worker's relay, depending on the role of the process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from taskobs.celery.process_signals import runs_no_tasks
from taskobs.celery.roles import Role
from taskobs.config.settings import Settings
from taskobs.otel.provider import TraceProvider
from taskobs.otel.task_spans import shared_task_signals

if TYPE_CHECKING:
    from taskobs.protocol.shared_memory import SharedMemory
    from taskobs.relay_client.client import RelayClient
    from taskobs.sentry.pipeline import SentryPipeline
    from taskobs.session.logs import Logs
    from taskobs.session.relay_pipeline import RelayPipeline

_SHARE: Final = 50


class WorkerRelay:
    """The relay of this process's worker, if it has one."""

    def __init__(self, settings: Settings) -> None:
        self._on = settings.relay
        self._settings = settings
        self._role = Role.PRODUCER
        self._pid = os.getpid()
        self._pipeline: RelayPipeline | None = None
        self._metrics: Callable[[], list[bytes]] | None = None
        self._metrics_due = 0.0
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
        logs: Logs | None = None,
    ) -> None:
        """Start a relay in a worker, or join it in a spawned child, and route telemetry to it."""
        self._role = role
        if self._pipeline is None and self._on and self._wanted(traces, sentry, logs):
            self._begin(role, worker, traces)
        if self._pipeline is not None:
            self._pipeline.carry(traces, sentry, shared_task_signals().guard, logs)

    def _wanted(
        self, traces: TraceProvider | None, sentry: SentryPipeline | None, logs: Logs | None
    ) -> bool:
        relays = traces is not None and traces.relays
        counts = self._metrics is not None
        return sentry is not None or logs is not None or relays or counts

    def starts_early(self, role: Role, worker: object) -> bool:
        """Start a relay for a provider that only pool children may set; tell whether there is one.

        Call it in a process that has nothing to record yet. Whoever has imported an exporter and
        set no provider may set it in the pool children, as OpenTelemetry documents it. Only the
        main process can start a relay for them, and only before they are forked.
        """
        from taskobs.otel.app import exporters

        expected = self._settings.relay_providers and exporters.are_imported()
        if role is Role.WORKER and self._on and expected and runs_no_tasks(worker):
            self._role = role
            self._begin(role, worker, None)
            if self._pipeline is not None:
                self._pipeline.carry(None, None, shared_task_signals().guard)
        return self.carries

    def _begin(self, role: Role, worker: object, traces: TraceProvider | None) -> None:
        if role is not Role.WORKER and role is not Role.POOL_CHILD:
            return
        # Here: no other process needs the client of a relay.
        from taskobs.session.relay_pipeline import supported

        if supported():
            self._start(role, worker, traces)

    def _start(self, role: Role, worker: object, traces: TraceProvider | None) -> None:
        from taskobs.session.relay_pipeline import RelayPipeline

        ours = traces is not None and traces.ours
        if role is Role.WORKER:
            self._on = False  # started only once, also if it fails
            self._pid = os.getpid()
            name = str(getattr(worker, "hostname", None) or "")
            self._pipeline = RelayPipeline.launch(
                self._settings,
                name,
                self._role_name,
                ours=ours,
                of_worker=_settings_of(worker, self._settings),
            )
        else:
            self._pipeline = RelayPipeline.join(self._role_name)
        if self._pipeline is not None:
            self._undo.callback(self._pipeline.close)
            if role is Role.WORKER:
                self._pipeline.client.count_with(self._metrics)

    def poll(self) -> None:
        """Restart a relay that died; call it once a second in the worker. Never blocks."""
        if self._pipeline is not None:
            self._pipeline.poll()
            self._send_metrics(self._pipeline.client)

    def _send_metrics(self, client: RelayClient) -> None:
        """Send what is counted, but with many series so rarely that it takes 2 % of the time."""
        began = time.monotonic()
        if began >= self._metrics_due:
            client.send_metrics()
            ended = time.monotonic()
            self._metrics_due = ended + _SHARE * (ended - began)

    @property
    def pid(self) -> int | None:
        """The relay's process id, in the worker's main process; None without a relay."""
        return None if self._pipeline is None else self._pipeline.relay_pid

    @property
    def memory(self) -> SharedMemory | None:
        """The memory that this process shares with the relay, also after that was given up."""
        return None if self._pipeline is None else self._pipeline.memory

    def count_with(self, metrics: Callable[[], list[bytes]]) -> None:
        """Have the relay export the METRICS payloads that this returns; one is started for them."""
        self._metrics = metrics
        if self._pipeline is not None:
            self._pipeline.client.count_with(metrics)

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until the relay has sent all; True without one."""
        return self._pipeline is None or self._pipeline.flush(timeout)

    def end(self, timeout: float) -> bool:
        """Hand pending frames over at this process's end; a worker waits until they are sent."""
        return self._pipeline is None or self._pipeline.end(timeout)

    def close(self) -> None:
        """Restore the direct pipeline; a later worker in this process starts its own relay."""
        self._on = self._on or self._pipeline is not None
        self._undo.close()
        self._pipeline = None

    def _role_name(self) -> str:
        """Name this process's role: a forked child's own signal comes late, or never."""
        forked = os.getpid() != self._pid and self._role is Role.WORKER
        return (Role.POOL_CHILD if forked else self._role).value


def _settings_of(worker: object, settings: Settings) -> dict[str, object]:
    """Return the relay's settings that depend on Celery's worker."""
    app_name = getattr(getattr(worker, "app", None), "main", None)
    found: dict[str, object] = {"service": settings.service_name or app_name}
    # Celery configures logging after this signal, so the logger's level isn't set yet.
    level = getattr(worker, "loglevel", None)
    return {**found, "log_level": level} if isinstance(level, int) else found
