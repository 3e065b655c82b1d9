"""What a worker's main process counts: each message that it received, and how that ended.

The main process sees every end of every delivery exactly once, on every pool, so nothing that is
counted here is lost with a child or with the relay. Several threads may count here; see `Histogram`
for why that takes no lock.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from taskobs.metrics.histogram import OTHER, RUN_TIMES, WAITS, Histogram, Names
from taskobs.metrics.moment import Moment

MAX_TASKS: Final = 500
MAX_QUEUES: Final = 500
MAX_ERRORS: Final = 50
MAX_SERIES: Final = 2_000
"""Combinations of a task and a queue; in publishes and failures also of the type of an error."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """The upper bounds of the buckets of histograms, in seconds."""

    run_times: Sequence[float] = RUN_TIMES
    queue_waits: Sequence[float] = WAITS
    prefetch_waits: Sequence[float] = WAITS


@dataclass(slots=True)
class Ended:
    """The end of a delivery whose run began."""

    outcome: str
    seconds: float
    cpu: float = 0.0
    error: str | None = None
    """The type of what made it fail."""
    expected: bool = False
    trace: int = 0
    """The id of its trace; 0 if that is not sampled."""


class TaskSeries:
    """What is counted of one task in one queue."""

    __slots__ = (
        *("_table", "discarded", "durations", "failures"),
        *("queue", "queue_wait", "received", "retries", "task"),
    )

    def __init__(self, table: WorkerTable, task: str, queue: str) -> None:
        self._table = table
        self.task, self.queue = task, queue
        self.received = self.retries = 0
        self.durations: dict[str, Histogram] = {}
        """By outcome."""
        self.queue_wait: Histogram | None = None
        self.discarded: dict[str, int] = {}
        """By outcome."""
        self.failures: dict[tuple[str, bool], int] = {}
        """By the type of the error, and whether the task expects it."""

    def began(self, queue_wait: float | None, prefetch_wait: float) -> None:
        """Count the start of a run; the times are in seconds, None for what is not known."""
        table = self._table
        if queue_wait is not None:
            if self.queue_wait is None:
                self.queue_wait = Histogram(table.buckets.queue_waits)
            self.queue_wait.observe(queue_wait)
        waits = table.prefetch_waits.get(self.queue)
        if waits is None:
            made = Histogram(table.buckets.prefetch_waits)
            waits = table.prefetch_waits.setdefault(self.queue, made)
        waits.observe(prefetch_wait)

    def discard(self, outcome: str) -> None:
        """Count a message that ended before its run began."""
        self.discarded.setdefault(outcome, 0)
        self.discarded[outcome] += 1

    def succeeded(self, seconds: float, cpu: float, trace: int) -> None:
        """Count a run that succeeded."""
        self._timed("succeeded", seconds, cpu, trace)

    def over_limit(self, pid: int | None) -> None:
        """Note that the pool ends the process of a run, as that has exceeded its time limit."""
        if pid is not None:
            self._table.over_limit.add(pid)

    def ended(self, end: Ended) -> None:
        """Count the end of a run."""
        self._timed(end.outcome, end.seconds, end.cpu, end.trace)
        if end.outcome == "retried":
            self.retries += 1
        elif end.error is not None and end.outcome in ("failed", "lost"):
            key = self._table.errors(end.error), end.expected
            if key not in self.failures and not self._table.may_add_failures():
                key = OTHER, end.expected
            self.failures.setdefault(key, 0)
            self.failures[key] += 1

    def _timed(self, outcome: str, seconds: float, cpu: float, trace: int) -> None:
        durations = self.durations.get(outcome)
        if durations is None:
            made = Histogram(self._table.buckets.run_times)
            durations = self.durations.setdefault(outcome, made)
        index = durations.observe(seconds)
        if cpu:
            self._table.cpu_times[self.task] += cpu
        if trace:
            durations.latest[index] = trace, seconds, time.time()


class WorkerTable:
    """All that one worker counts. Its series are bounded; what is beyond is counted as `OTHER`."""

    def __init__(self, buckets: Buckets | None = None) -> None:
        self.buckets = buckets or Buckets()
        self._began = Moment()
        self.series: dict[tuple[str, str], TaskSeries] = {}
        self.prefetch_waits: dict[str, Histogram] = {}
        """By queue."""
        self.cpu_times: dict[str, float] = {}
        """By task."""
        self.unknown: dict[str, int] = {}
        """By queue, messages that name no task of this worker's, or can't be decoded."""
        self.exits: dict[str, int] = {}
        """By reason, the ends of pool processes."""
        self.over_limit: set[int] = set()
        """The ids of pool processes that are being ended by the hard time limit of their run."""
        self.reconnects = 0
        self._failures = 0
        self.errors = Names(MAX_ERRORS)
        self._tasks, self._queues = Names(MAX_TASKS), Names(MAX_QUEUES)

    @property
    def since(self) -> int:
        """When counting began, in nanoseconds since the epoch."""
        return self._began.epoch_ns

    def of_task(self, task: str) -> TaskCounts:
        """Return what counts the messages of a task that the worker knows."""
        return TaskCounts(self, self._tasks(task))

    def of(self, task: str, queue: str) -> TaskSeries:
        """Return the series of a task that `of_task` has named, and a queue."""
        key = task, self._queues(queue)
        found = self.series.get(key)
        if found is None:
            if len(self.series) >= MAX_SERIES:
                key = OTHER, OTHER
            self.cpu_times.setdefault(key[0], 0.0)
            found = self.series.setdefault(key, TaskSeries(self, *key))
        return found

    def may_add_failures(self) -> bool:
        """Count a new series of failures; False if there are as many as there may be."""
        self._failures += 1
        return self._failures <= MAX_SERIES

    def unknown_message(self, queue: str) -> None:
        """Count a message that is of no task of this worker's."""
        name = self._queues(queue)
        self.unknown.setdefault(name, 0)
        self.unknown[name] += 1

    def process_exited(self, reason: str) -> None:
        """Count the end of a pool process."""
        self.exits.setdefault(reason, 0)
        self.exits[reason] += 1


class TaskCounts:
    """Finds the series of one task, by the queue of a message."""

    def __init__(self, table: WorkerTable, task: str) -> None:
        self._table = table
        self._task = task
        self._by_queue: dict[str, TaskSeries] = {}

    def received(self, queue: str) -> TaskSeries:
        """Count a message; return the series to count its run and its end with."""
        series = self._by_queue.get(queue)
        if series is None:
            series = self._table.of(self._task, queue)
            if len(self._by_queue) < MAX_QUEUES:
                self._by_queue[queue] = series
        series.received += 1
        return series


PublishKey = tuple[str, str, str]
"""A task, its queue, and the type of the error that refused the message; empty if none did."""


class PublishTable:
    """Counts what this process publishes."""

    def __init__(self) -> None:
        self._began = Moment()
        self.counts: dict[PublishKey, int] = {}
        self._tasks, self._queues, self._errors = (
            Names(MAX_TASKS),
            Names(MAX_QUEUES),
            Names(MAX_ERRORS),
        )

    @property
    def since(self) -> int:
        """When counting began, in nanoseconds since the epoch."""
        return self._began.epoch_ns

    def key(self, task: str, queue: str, error: str) -> PublishKey:
        """Return what to count a publish as."""
        key = task, queue, error
        if key in self.counts:  # so these names are among those that are kept
            return key
        key = self._tasks(task), self._queues(queue), self._errors(error) if error else ""
        if key in self.counts or len(self.counts) < MAX_SERIES:
            return key
        return OTHER, OTHER, key[2]

    def add(self, key: PublishKey) -> None:
        """Count a publish."""
        self.counts.setdefault(key, 0)
        self.counts[key] += 1
