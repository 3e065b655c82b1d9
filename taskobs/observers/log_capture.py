"""Takes each log record of a process, whatever handlers it has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from taskobs.internal.guard import Guard
from taskobs.internal.wrapping import Patches
from taskobs.observers.log_entries import entry_of
from taskobs.protocol.log_entries import pack_entry

if TYPE_CHECKING:
    from taskobs.model import Run

_quiet: Final[ContextVar[bool]] = ContextVar("taskobs_no_logs", default=False)
"""A context variable, as greenlets of one thread don't share it."""


@contextmanager
def quiet() -> Generator[None]:
    """Take no records of this thread in a block: those that come from sending records."""
    before = _quiet.get()
    try:
        # Within `try`: a soft time limit's signal may raise when `set` returns. All later records
        # of the process would be left out.
        _quiet.set(True)
        yield
    finally:
        _quiet.set(before)


class LogCapture:
    """Calls ``take`` with each record, packed.

    ``Logger.callHandlers`` is where a record arrives once that a logger's level and filters let
    pass, whether or not it propagates, and whoever set up the handlers. A handler would miss
    records: Celery empties the root logger's handlers, ``celery.task`` doesn't propagate, and an
    app that connects ``setup_logging`` gets no signal afterwards (seen in 5.3 to 5.7).
    """

    def __init__(
        self,
        current_run: Callable[[], Run | None],
        take: Callable[[bytes], object],
        guard: Guard,
    ) -> None:
        self._current_run, self._take, self._guard = current_run, take, guard
        self._patches = Patches()

    def install(self) -> None:
        """Take records from now on."""
        self._patches.wrap(logging.Logger, "callHandlers", self._on_record)

    def remove(self) -> None:
        """Take no more."""
        self._patches.remove()

    def _on_record(
        self, call: Callable[..., Any], _: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        record = args[0] if args else kwargs.get("record")
        if isinstance(record, logging.LogRecord) and not _quiet.get():
            self._record(record)  # before the handlers, of which one may end the process
        return call(*args, **kwargs)

    def _record(self, record: logging.LogRecord) -> None:
        # The guard logs, too: in the block, so that its record isn't taken and can't fail again.
        with quiet(), self._guard:
            self._take(pack_entry(entry_of(record, self._current_run())))
