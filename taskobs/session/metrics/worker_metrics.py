"""Counts what a worker does, in its main process, and hands the sums to whoever exports them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from threading import Lock
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, Resource

from taskobs import semconv
from taskobs.celery.counting.publish_counts import PublishCounts
from taskobs.config.settings import Settings
from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.internal.guard import Guard
from taskobs.metrics import metrics_frames
from taskobs.metrics.counter_keys import CounterKey, Measured
from taskobs.metrics.families import Family, Groups
from taskobs.metrics.histogram import RUN_TIMES, WAITS
from taskobs.metrics.measured_families import measured_families
from taskobs.metrics.snapshot import Snapshot, pack_snapshot
from taskobs.metrics.worker_families import Gauges, families_of, published
from taskobs.metrics.worker_table import Buckets, PublishKey, WorkerTable
from taskobs.observers.base import Observer
from taskobs.otel.resource import resource_of, with_instance
from taskobs.otel.task_spans import shared_task_signals
from taskobs.protocol.frames import MAX_FRAME, unpack
from taskobs.session.metrics.shared_counts import SharedCounts

if TYPE_CHECKING:
    from taskobs.celery.counting.worker_gauges import WorkerGauges
    from taskobs.otel.provider import TraceProvider

_log: Final = logging.getLogger("taskobs")
Sums = list[tuple[CounterKey, list[float]]]


class WorkerMetrics:
    """The metrics of this process's worker, if it is the worker's main process.

    ``traces`` returns what spans are recorded with: the metrics have their resource. In a pool
    child it counts what that publishes, in memory which the main process reads.
    """

    def __init__(
        self,
        settings: Settings,
        app_name: Callable[[], str | None],
        traces: Callable[[], TraceProvider | None],
    ) -> None:
        self._settings = settings
        self._app_name = app_name
        self._traces = traces
        self._observing = False
        self._publishes = PublishCounts()
        self.shared = SharedCounts()
        """What the processes of the worker count together."""
        self._gauges: WorkerGauges | None = None
        self._hostname = ""
        self._last = Gauges()
        self._lock = Lock()
        self._guard = Guard()
        self._too_long = False
        self.table: WorkerTable | None = None
        """What is counted; None where this is no worker's main process."""
        self._undo = ExitStack()
        self._first: Callable[[], object] = lambda: None
        self._instance = ""
        self._own: Resource | None = None
        forksafe.add(self, ForkStep.EXPORT)

    def start(self, worker: Any) -> None:  # noqa: ANN401  # Celery's object
        """Count what a worker does, from before it forks its pool."""
        from taskobs.celery.counting.pool_exits import PoolExits
        from taskobs.celery.counting.traced import RunFigures
        from taskobs.celery.counting.worker_gauges import WorkerGauges

        if self.table is not None:
            return
        table = self.table = WorkerTable(_buckets(self._settings))
        signals, exits = shared_task_signals(), PoolExits(table)
        self._gauges = WorkerGauges(worker)
        self._hostname = str(getattr(worker, "hostname", None) or "")
        with ExitStack() as undo:
            undo.callback(self._forget)
            undo.callback(self.shared.close)
            self.shared.open()
            undo.callback(signals.count_in, None)
            signals.count_in(table)
            undo.callback(exits.remove)
            exits.install()
            undo.callback(self._observe_no_more)
            self._observe(RunFigures(), undo)
            self.shared.measure_tasks()
            self._undo = undo.pop_all()

    def open_for_readers(self, worker: Any) -> None:  # noqa: ANN401  # Celery's object
        """Count nothing but what readers of the app's would export, in a worker's main process."""
        self._hostname = str(getattr(worker, "hostname", None) or "")
        self._undo.callback(self.shared.close)
        self.shared.open()

    def count_publishes(self, first: Callable[[], object]) -> None:
        """Count what this process publishes; ``first`` is called before the first is counted."""
        self._first = first
        self._publishes.add = self._add_first
        shared_task_signals().attach(self._publishes)

    def _add_first(self, key: PublishKey) -> None:
        self._publishes.add = self._publishes.table.add
        self._resource()
        self._first()
        self._publishes.add(key)

    def join(self) -> None:
        """In a pool child: hand on what is known of runs; one that was forked does already."""
        from taskobs.celery.counting.traced import RunFigures

        if not self._observing:
            self._undo.callback(self._observe_no_more)
            self._observe(RunFigures(), self._undo)
            if not self.shared.is_open:  # the process was spawned: a forked one has the memory
                self.join_readers()
                if self.shared.is_open:
                    self._publishes.add = self.shared.add
                    self.shared.measure_tasks()

    def join_readers(self) -> None:
        """In a pool child that was spawned: find the memory that the worker's processes share."""
        if not self.shared.is_open:
            self._undo.callback(self.shared.close)
            self.shared.join()

    def _observe(self, observer: Observer, undo: ExitStack) -> None:
        self._observing = True
        undo.callback(shared_task_signals().detach, observer)
        shared_task_signals().attach(observer)

    def _forget(self) -> None:
        self.table = self._gauges = None

    def _observe_no_more(self) -> None:
        self._observing = False

    def close(self) -> None:
        """Count no more, but for what is published."""
        self._undo.close()
        self._publishes.restart()

    def stop(self) -> None:
        """Count nothing more."""
        self.close()
        shared_task_signals().detach(self._publishes)
        forksafe.remove(self)

    def after_fork(self) -> None:
        """In a forked child: count what it publishes where the main process reads it."""
        self.table = self._gauges = None
        self._lock = Lock()  # another thread of the parent may have held it
        self.shared.after_fork()
        self._publishes.restart()
        self._instance, self._own = "", None  # another instance
        self._publishes.add = self.shared.add if self.shared.is_open else self._add_first

    # In the main process.

    def measure(self, relay_pid: int | None, connections: int) -> None:
        """Read what the worker is now, in its event loop, once a second."""
        if self.table is not None and self._gauges is not None:
            self.table.reconnects = max(0, connections - 1)
            self._last = self._gauges.read(relay_pid)

    def groups(self) -> tuple[Groups, Resource]:
        """Return all that was counted, and the resource of it; from any thread."""
        with self._lock:
            return self._groups(self.shared.sums())

    def _groups(self, sums: Sums) -> tuple[Groups, Resource]:
        table = self.table
        families = [published(self._published(sums)), *measured_families(sums)]
        since = self._publishes.table.since
        if table is not None:
            families, since = [*families_of(table, self._last), *families], table.since
        return [(since, families)], self._resource()

    def families(self) -> list[Family]:
        """Return all that was counted; from any thread."""
        return [family for _, families in self.groups()[0] for family in families]

    def _resource(self) -> Resource:
        traces = self._traces()
        found = getattr(None if traces is None else traces.provider, "resource", None)
        if not isinstance(found, Resource):
            found = self._own_resource()
        if self.table is not None:
            return with_instance(found, self._hostname)
        # The SDK gives each process one since 1.44; two with the same would be one to a backend.
        self._instance = self._instance or str(uuid4())
        return Resource({SERVICE_INSTANCE_ID: self._instance}).merge(found)

    def _own_resource(self) -> Resource:
        # Made once, and not at the interpreter's end: the SDK starts threads to detect it.
        if self._own is None:
            self._own = resource_of(self._settings, self._app_name)
        return self._own

    def packed(self) -> list[bytes]:
        """Return snapshots as the payloads of METRICS frames, without those that are too long."""
        with self._guard:
            with self._lock:
                sums = self.shared.sums()
                own = [] if self.table is None else [self._of_worker(sums)]
            return [one for one in (*own, *self._of_readers(sums)) if self._fits(one)]
        return []

    def packed_for_readers(self) -> list[bytes]:
        """Return those of them that are for readers of the app's."""
        with self._guard:
            with self._lock:
                sums = self.shared.sums()
            return [*filter(self._fits, self._of_readers(sums))]
        return []

    def _of_worker(self, sums: Sums) -> bytes:
        [(since, families)], resource = self._groups(sums)
        return metrics_frames.of_worker(_packed(since, families, resource))

    def _of_readers(self, sums: Sums) -> Iterator[bytes]:
        for number, settings in enumerate(self.shared.readers(), 1):
            found = unpack(settings)
            resource = Resource(found["resource"], found["schema_url"])
            if SERVICE_INSTANCE_ID not in resource.attributes:
                resource = with_instance(resource, self._hostname)
            families = measured_families(sums, number)
            packed = _packed(self.shared.since, families, resource)
            yield metrics_frames.of_reader(number, settings, packed)

    def _fits(self, payload: bytes) -> bool:
        fits = len(payload) < MAX_FRAME
        if not fits and not self._too_long:
            self._too_long = True
            _log.warning("taskobs: there are too many series of metrics: none are exported")
        return fits

    def _published(self, sums: Sums) -> dict[PublishKey, float]:
        found: dict[PublishKey, float] = dict(self._publishes.table.counts)
        for key, (number, *_) in sums:
            if isinstance(key, Measured):
                continue
            of = self._publishes.table.key(*key)
            found[of] = found.get(of, 0) + int(number)
        return found


def _packed(since: int, families: Iterable[Family], resource: Resource) -> bytes:
    return pack_snapshot(
        Snapshot(
            since=since,
            families=[*families],
            resource=resource.attributes,
            schema_url=resource.schema_url,
        )
    )


def _buckets(settings: Settings) -> Buckets:
    given = settings.metric_buckets or {}
    return Buckets(
        given.get(semconv.METRIC_TASK_DURATION, RUN_TIMES),
        given.get(semconv.METRIC_TASK_QUEUE_WAIT, WAITS),
        given.get(semconv.METRIC_TASK_PREFETCH_WAIT, WAITS),
    )
