"""Counts what this process publishes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from time import time
from types import TracebackType

from taskobs import semconv
from taskobs.metrics.worker_table import PublishKey, PublishTable
from taskobs.model import Publish
from taskobs.observers.attributes import type_of
from taskobs.observers.base import Observer

Add = Callable[[PublishKey], object]


class PublishCounts(Observer):
    """Counts each publish at its end, by task and queue, and by why the broker refused it.

    ``add`` takes the count of one; it may be replaced at any time.
    """

    def __init__(self) -> None:
        self.table = PublishTable()
        self.add: Add = self.table.add

    def publish(self, publish: Publish) -> AbstractContextManager[object]:
        """Open for a publish."""
        return _Counted(self, publish)

    def sending(self, publish: Publish) -> None:
        """Say in the message when it was published, for its time in the queue; spans may be off."""
        if not publish.has_span:  # else its span's observer says it
            publish.headers[semconv.HEADER_PUBLISHED_AT] = f"{time():.6f}"

    def restart(self) -> None:
        """Count from zero, in a process of its own."""
        self.table = PublishTable()
        self.add = self.table.add


class _Counted:
    __slots__ = ("_counts", "_publish")

    def __init__(self, counts: PublishCounts, publish: Publish) -> None:
        self._counts, self._publish = counts, publish

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        counts, publish = self._counts, self._publish
        refused = "" if publish.error is None else type_of(publish.error)
        counts.add(counts.table.key(publish.task, publish.queue or "", refused))
