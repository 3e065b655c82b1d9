"""What an observer is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:  # the records take a third of what init() imports
    from taskobs.model import Canvas, Publish, Run


NOTHING: Final[AbstractContextManager[object]] = nullcontext()
"""What to return when there is nothing to open."""


class Observer:
    """Turns records of publishes and runs into telemetry. Override what you need.

    ``publish`` and ``run`` return a context manager that is open as long as the publish or
    the run is; at its exit the record's ``error``, or ``outcome`` and ``exception``, are set.
    The context manager is never given the exception itself, and must not raise.
    """

    opens_last: ClassVar[bool] = False
    """Whether it opens after all others, and closes before them."""

    def publish(self, publish: Publish) -> AbstractContextManager[object]:
        """Open for a publish, of which only the task's name is known yet."""
        return NOTHING

    def canvas(self, canvas: Canvas) -> AbstractContextManager[object]:
        """Open for the publishes of one group or chord."""
        return NOTHING

    def sending(self, publish: Publish) -> None:
        """The message is complete and about to be sent: its headers may be added to."""

    def run(self, run: Run) -> AbstractContextManager[object]:
        """Open for a run."""
        return NOTHING

    def ended(self, run: Run) -> None:
        """The run is over; what was opened for it is about to be closed."""

    def failed(self, run: Run) -> None:
        """The run has just failed; ``run.exception`` is set, and its stack frames still exist.

        Called at most once for a run and its exception, and only for real failures: not for
        ``throws``, Retry, Ignore or Reject.
        """
