"""What a worker has counted as metric families, by the names that leave the process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from taskobs import semconv
from taskobs.metrics.families import Distribution, Family, Kind, Labels, LabelValue, Sample
from taskobs.metrics.worker_table import PublishKey, TaskSeries, WorkerTable

_TASK, _QUEUE, _OUTCOME = semconv.CELERY_TASK_NAME, semconv.CELERY_QUEUE, semconv.CELERY_OUTCOME
_UNKNOWN = "unknown"


@dataclass(slots=True)
class Gauges:
    """What a worker is at this moment. What is not known is None, or missing."""

    tasks: Mapping[str, int] = field(default_factory=dict[str, int])
    """By state: active, reserved, scheduled."""
    pool_limit: int | None = None
    prefetch_limit: int | None = None
    oldest: Mapping[str, float] = field(default_factory=dict[str, float])
    """By task, for how many seconds its oldest run has been active."""
    memory: Mapping[str, int] = field(default_factory=dict[str, int])
    """By kind of process, resident bytes."""
    heartbeat: float = 0.0
    """When the worker's event loop was last seen to run, in seconds since the epoch."""


def families_of(table: WorkerTable, gauges: Gauges) -> list[Family]:
    """Return the metrics of tasks and of the worker, but for its publishes."""
    return [*_of_tasks(table), *_of_worker(table, gauges)]


def published(counts: Mapping[PublishKey, float]) -> Family:
    """Return the metric of publishes."""
    samples = [
        Sample({**_labels(task, queue), **({semconv.ERROR_TYPE: error} if error else {})}, number)
        for (task, queue, error), number in counts.items()
    ]
    meaning = "Messages handed to the broker, or refused by it."
    return _family(semconv.METRIC_TASK_PUBLISHED, "counter", meaning, "{message}", samples)


def _of_tasks(table: WorkerTable) -> Iterator[Family]:
    rows = list(table.series.values())
    yield _family(
        semconv.METRIC_TASK_RECEIVED,
        "counter",
        "Messages of tasks that this worker knows.",
        "{message}",
        [Sample(_of(row), row.received) for row in rows],
    )
    yield _histogram(
        semconv.METRIC_TASK_DURATION,
        "How long runs took, by how they ended.",
        table.buckets.run_times,
        [
            durations.distribution({**_of(row), _OUTCOME: outcome})
            for row in rows
            for outcome, durations in row.durations.copy().items()
        ],
    )
    yield _discarded(table, rows)
    yield _failures(rows)
    yield _family(
        semconv.METRIC_TASK_RETRIES,
        "counter",
        "Runs that ended as a retry.",
        "{run}",
        [Sample(_of(row), row.retries) for row in rows if row.retries],
    )
    yield from _waits(table, rows)
    yield _family(
        semconv.METRIC_TASK_CPU_TIME,
        "counter",
        "Seconds of CPU time that runs took, but for those whose process died.",
        "s",
        [Sample({_TASK: task}, time) for task, time in table.cpu_times.copy().items() if time],
    )


def _discarded(table: WorkerTable, rows: Iterable[TaskSeries]) -> Family:
    samples = [
        Sample({**_of(row), _OUTCOME: outcome}, number)
        for row in rows
        for outcome, number in row.discarded.copy().items()
    ]
    samples += [
        Sample({_QUEUE: queue, _OUTCOME: _UNKNOWN}, number)
        for queue, number in table.unknown.copy().items()
    ]
    meaning = "Messages that ended before a run began, by how."
    return _family(semconv.METRIC_TASK_DISCARDED, "counter", meaning, "{message}", samples)


def _failures(rows: Iterable[TaskSeries]) -> Family:
    samples = [
        Sample(
            {**_of(row), semconv.ERROR_TYPE: error, semconv.CELERY_EXPECTED: expected},
            number,
        )
        for row in rows
        for (error, expected), number in row.failures.copy().items()
    ]
    meaning = "Runs that failed or were lost, by what made them."
    return _family(semconv.METRIC_TASK_FAILURES, "counter", meaning, "{run}", samples)


def _waits(table: WorkerTable, rows: Iterable[TaskSeries]) -> Iterator[Family]:
    yield _histogram(
        semconv.METRIC_TASK_QUEUE_WAIT,
        "From the publish, or the ETA, to the start of the run.",
        table.buckets.queue_waits,
        [row.queue_wait.distribution(_of(row)) for row in rows if row.queue_wait is not None],
    )
    yield _histogram(
        semconv.METRIC_TASK_PREFETCH_WAIT,
        "From the receipt by the worker, or the ETA, to the start of the run.",
        table.buckets.prefetch_waits,
        [
            waits.distribution({_QUEUE: queue})
            for queue, waits in table.prefetch_waits.copy().items()
        ],
    )


def _of_worker(table: WorkerTable, gauges: Gauges) -> Iterator[Family]:
    yield _family(
        semconv.METRIC_WORKER_TASKS,
        "gauge",
        "Tasks that the worker runs, or holds for later.",
        "{task}",
        [Sample({semconv.CELERY_STATE: state}, n) for state, n in gauges.tasks.items()],
    )
    yield _family(
        semconv.METRIC_WORKER_POOL_LIMIT,
        "gauge",
        "Runs that the pool has room for.",
        "{run}",
        _if_known(gauges.pool_limit),
    )
    yield _family(
        semconv.METRIC_WORKER_PREFETCH_LIMIT,
        "gauge",
        "Messages that the worker takes from the broker ahead; 0 is no limit.",
        "{message}",
        _if_known(gauges.prefetch_limit),
    )
    yield _family(
        semconv.METRIC_WORKER_ACTIVE_OLDEST,
        "gauge",
        "For how long the oldest run of each task has been active; 0 if none is.",
        "s",
        [Sample({_TASK: task}, age) for task, age in _oldest(table, gauges).items()],
    )
    yield _family(
        semconv.METRIC_WORKER_PROCESS_EXITS,
        "counter",
        "Ends of pool processes, by why.",
        "{process}",
        [Sample({semconv.CELERY_REASON: why}, n) for why, n in table.exits.copy().items()],
    )
    yield _family(
        semconv.METRIC_WORKER_MEMORY,
        "gauge",
        "Resident memory of the worker's processes.",
        "By",
        [Sample({semconv.WORKER_PROCESS: kind}, size) for kind, size in gauges.memory.items()],
    )
    yield _family(
        semconv.METRIC_WORKER_RECONNECTS,
        "counter",
        "New connections to the broker after the first.",
        "{connection}",
        [Sample({}, table.reconnects)],
    )
    yield _family(
        semconv.METRIC_WORKER_HEARTBEAT,
        "gauge",
        "When the worker's event loop was last seen to run, in seconds since the epoch.",
        "s",
        [Sample({}, gauges.heartbeat)] if gauges.heartbeat else [],
    )


def _oldest(table: WorkerTable, gauges: Gauges) -> dict[str, float]:
    # Of short tasks none may be active when it is looked: a series that comes and goes has gaps.
    idle = {task: 0.0 for task, _ in table.series.copy()}
    return {**idle, **gauges.oldest}


def _family(name: str, kind: Kind, meaning: str, unit: str, samples: Sequence[Sample]) -> Family:
    return Family(name=name, kind=kind, meaning=meaning, unit=unit, samples=samples)


def _histogram(
    name: str, meaning: str, bounds: Sequence[float], series: Sequence[Distribution]
) -> Family:
    return Family(
        name=name, kind="histogram", meaning=meaning, unit="s", bounds=bounds, distributions=series
    )


def _of(row: TaskSeries) -> Labels:
    return _labels(row.task, row.queue)


def _labels(task: str, queue: str) -> dict[str, LabelValue]:
    return {_TASK: task, _QUEUE: queue} if queue else {_TASK: task}


def _if_known(value: int | None) -> list[Sample]:
    return [] if value is None else [Sample({}, value)]
