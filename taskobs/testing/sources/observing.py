"""Observers that tell a recording what begins and ends in this process."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from taskobs.model import Publish, Run
from taskobs.observers.base import Observer
from taskobs.otel.task_spans import shared_task_signals
from taskobs.testing.recording import Recording


class Observing:
    """Attaches both observers, around those of a session that has started."""

    def __init__(self, recording: Recording) -> None:
        self._begins, self._ends = Begins(recording), Ends(recording)

    def attach(self) -> None:
        """Attach them, or attach them again: the observers of a session also want to be first."""
        self.detach()
        shared_task_signals().attach(self._begins)
        shared_task_signals().attach(self._ends, first=True)

    def detach(self) -> None:
        """Detach them."""
        shared_task_signals().detach(self._begins)
        shared_task_signals().detach(self._ends)


class Begins(Observer):
    """Tells of runs that have begun, once their span has, and of messages about to be sent."""

    opens_last: ClassVar[bool] = True

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def sending(self, publish: Publish) -> None:
        """Tell of a message whose id is known now."""
        self._recording.sending(publish)

    def run(self, run: Run) -> AbstractContextManager[object]:
        """Tell of a run."""
        return self._noted(run)

    @contextmanager
    def _noted(self, run: Run) -> Generator[None]:
        self._recording.began(run)
        yield


class Ends(Observer):
    """Tells of runs whose span has ended, and of messages that were refused.

    Attach it as the first observer.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def publish(self, publish: Publish) -> AbstractContextManager[object]:
        """Tell of a message if it is refused."""
        return self._published(publish)

    @contextmanager
    def _published(self, publish: Publish) -> Generator[None]:
        yield
        if publish.error is not None:
            self._recording.refused(publish)

    def run(self, run: Run) -> AbstractContextManager[object]:
        """Tell of a run's end."""
        return self._ended(run)

    @contextmanager
    def _ended(self, run: Run) -> Generator[None]:
        yield
        self._recording.ended(run)
