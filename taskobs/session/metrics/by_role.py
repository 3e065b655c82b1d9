"""A session's metrics: what a process counts, and who sends that, depends on its role."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from taskobs.celery.command_line import in_command
from taskobs.celery.process_signals import runs_no_tasks
from taskobs.celery.roles import Role
from taskobs.config.settings import Settings
from taskobs.otel.task_spans import shared_task_signals
from taskobs.session.metrics.direct_metrics import DirectMetrics
from taskobs.session.metrics.worker_metrics import WorkerMetrics
from taskobs.session.worker_relay import WorkerRelay

if TYPE_CHECKING:
    from taskobs.celery.worker_timer import RunningWorker
    from taskobs.metrics.families import Family
    from taskobs.session.spans import Spans


class Host(Protocol):
    """The session whose metrics these are."""

    settings: Settings

    def observe(self) -> None:
        """Watch the process from now on: something is counted that this process sends."""
        ...


class Metrics:
    """Counts in this process, if that goes anywhere, from ``start`` to ``stop``.

    A worker's main process hands its sums to the relay; without one, and in producers and beat, the
    process sends them itself. Pool children count in memory that the main process reads.
    """

    def __init__(
        self,
        host: Host,
        app_name: Callable[[], str | None],
        spans: Spans,
        relay: WorkerRelay,
        running: RunningWorker,
    ) -> None:
        settings = host.settings
        self._observe = host.observe
        self._wanted = settings.metrics
        self._readers_wanted = settings.relay and settings.relay_providers
        self._supervises = False
        self._provider_of_main: object = None
        self._relay = relay
        self._running = running
        self._counts = WorkerMetrics(settings, app_name, lambda: spans.provider)
        self._direct = DirectMetrics(settings, self._counts)
        self._role = Role.PRODUCER

    @property
    def of_worker(self) -> bool:
        """Whether this is a worker's main process that counts."""
        return self._counts.table is not None

    @property
    def exported(self) -> bool:
        """Whether this is a process of a worker whose metrics are exported."""
        return self.of_worker or (self._role is Role.POOL_CHILD and self._wanted)

    def start(self) -> None:
        """Count publishes from now on."""
        if self._wanted:
            self._counts.count_publishes(self._publishes)

    def stop(self) -> None:
        """Count, send and serve nothing more."""
        self._direct.close()
        self._counts.stop()

    def became(self, role: Role, worker: object) -> None:
        """Handle that Celery's signals gave the role of this process."""
        self._role = role
        if role is Role.WORKER:
            self._supervises = runs_no_tasks(worker)
            self._became_worker(worker)
        elif role is Role.POOL_CHILD and self._wanted:
            self._counts.join()
        elif role is Role.POOL_CHILD and self._readers_wanted:
            self._counts.join_readers()

    def _became_worker(self, worker: object) -> None:
        if self._wanted:
            self._counts.start(worker)
        elif self._readers_wanted and self._supervises and _readers_are_expected():
            self._counts.open_for_readers(worker)
        else:
            return
        self._relay.count_with(self._counts.packed)
        self._observe()

    def look(self) -> None:
        """Count for the app's own metric readers, where a relay can export in their place.

        In an inline worker they measure and export in one process, and lose nothing to another one.
        Never raises into the app.
        """
        of_pool = self._role is Role.POOL_CHILD or (self._role is Role.WORKER and self._supervises)
        if self._readers_wanted and of_pool:
            with shared_task_signals().guard:
                self._look()

    def _look(self) -> None:
        from taskobs.otel.app.readers import app_provider

        provider = app_provider()
        if self._role is Role.WORKER:
            self._provider_of_main = provider
        elif provider is self._provider_of_main:
            return  # what it holds was measured in the main process, which counts or exports it
        if provider is not None and self._relay.carries:
            self._counts.shared.take_over(provider)

    def tick(self) -> None:
        """Measure what the worker is, before it is exported and once a second.

        If no relay exports what is counted, or not any more, this process does.
        """
        self._counts.measure(self._relay.pid, self._running.connections)
        if not self._relay.carries:
            self._export()

    def _export(self) -> None:
        if self.of_worker:
            self._direct.start(serving=True, memory=self._relay.memory)
        self._direct.send_for_readers(self._relay.memory)

    def families(self) -> list[Family]:
        """Return all that was counted."""
        return self._counts.families()

    def flushes(self) -> list[Callable[[], object]]:
        """Return the calls that send what this process has counted; each may block."""
        if self._relay.carries:
            return []
        # The timer does not run while a worker stops, and the relay may be given up just then.
        self._export()
        return self._direct.flushes()

    def worker_ended(self) -> None:
        """Count no more of a worker that has ended."""
        self._direct.close()
        self._counts.close()

    def _publishes(self) -> None:
        # A command such as `celery call` publishes once, and what sends takes long to import.
        producer = self._role is Role.PRODUCER and not in_command()
        if producer or self._role is Role.BEAT:
            self._observe()  # without spans and errors, nobody else has the process's end watched
            self._direct.start(serving=False)


def _readers_are_expected() -> bool:
    # Here: few processes need what it imports.
    from taskobs.otel.app import readers

    return readers.are_expected()
