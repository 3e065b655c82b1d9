"""The memory in which the processes of a worker count, and what this process counts there."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from taskobs.config.settings import COUNTER_MEMORY
from taskobs.metrics.counter_keys import CounterKey, publish_key, read_key
from taskobs.metrics.moment import Moment
from taskobs.otel.app.meters import TaskMeters

if TYPE_CHECKING:
    from taskobs.metrics.counter_memory import CounterMemory, CounterRegion
    from taskobs.metrics.worker_table import PublishKey
    from taskobs.otel.app.readers import AppReaders

_log: Final = logging.getLogger("taskobs")


class SharedCounts:
    """Made in a worker's main process by ``open``, found in a spawned child by ``join``.

    A forked child has it from its parent.
    """

    def __init__(self) -> None:
        self._memory: CounterMemory | None = None
        self._region: CounterRegion | None = None
        self._meters = TaskMeters()
        self._readers: AppReaders | None = None
        self._began = Moment()
        self._is_main = False
        self._undo = ExitStack()

    @property
    def is_open(self) -> bool:
        """Whether there is such memory."""
        return self._memory is not None

    @property
    def since(self) -> int:
        """When counting began, in nanoseconds since the epoch."""
        return self._began.epoch_ns

    def open(self) -> None:
        """Make the memory, in a worker's main process, before it forks its pool."""
        if self._memory is not None:
            return
        try:
            from taskobs.metrics.counter_memory import CounterMemory  # needs POSIX

            self._memory = CounterMemory()
        except (ImportError, OSError) as error:
            _log.warning("taskobs: what tasks publish is not counted: %s", error)
            return
        self._began, self._is_main = Moment(), True
        self._undo.callback(self._forget)
        self._undo.callback(os.environ.pop, COUNTER_MEMORY, None)
        os.environ[COUNTER_MEMORY] = self._memory.address

    def join(self) -> None:
        """Find the memory of the process that has spawned this one, if it has any."""
        if self._memory is not None:
            return
        from taskobs.metrics.counter_memory import CounterMemory

        self._memory = CounterMemory.of(os.environ.get(COUNTER_MEMORY, ""))
        if self._memory is not None:
            self._undo.callback(self._forget)

    def _forget(self) -> None:
        memory, self._memory, self._region = self._memory, None, None
        self._is_main = False
        if memory is not None:
            memory.close()

    def measure_tasks(self) -> None:
        """Keep what tasks measure themselves, unless the app has set a MeterProvider."""
        if self._memory is not None and self._meters.install():
            self._keep()

    def take_over(self, provider: object) -> None:
        """Count for the readers of a MeterProvider of the app's."""
        if self._memory is None:
            return
        if self._readers is None:
            from taskobs.otel.app.readers import AppReaders  # which few apps need

            self._readers = AppReaders(self._meters.measurements, self._memory.readers.number)
            self._undo.callback(self._leave_readers)
        self._keep()
        self._readers.take_over(provider)

    def _keep(self) -> None:
        if not self._meters.measurements.on:
            self._undo.callback(self._meters.measurements.end)
            self._meters.measurements.begin(self._own_region)

    def _leave_readers(self) -> None:
        readers, self._readers = self._readers, None
        if readers is not None:
            readers.restore()

    def add(self, key: PublishKey) -> None:
        """Count a publish of this process."""
        region = self._own_region()
        if region is not None:
            region.add(publish_key(*key))

    def _own_region(self) -> CounterRegion | None:
        """Return this process's part of the memory, which the first call takes."""
        if self._region is None and self._memory is not None:
            with suppress(OSError):
                self._region = self._memory.own()
        return self._region

    def sums(self) -> list[tuple[CounterKey, list[float]]]:
        """Return what all processes have counted; in the main process, not thread-safe."""
        if self._memory is None:
            return []
        found = ((read_key(key), values) for key, values in self._memory.sums().items())
        return [(key, values) for key, values in found if key is not None]

    def readers(self) -> list[bytes]:
        """Return the settings of the readers of the app's that something is counted for.

        None in other processes than the main one, which exports what all have counted.
        """
        if self._memory is None or not self._is_main:
            return []
        return self._memory.readers.all()

    def close(self) -> None:
        """Count no more."""
        self._undo.close()

    def after_fork(self) -> None:
        """In a forked child: count in a part of the memory of its own."""
        self._region, self._is_main = None, False
        if self._memory is not None:
            self._memory.after_fork()
        self._meters.measurements.after_fork()
