"""Facts of runs go to the relay, which counts them for the whole worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from taskobs.facts import Outcome, Run
from taskobs.observers.base import Observer
from taskobs.relay.client import RelayClient
from taskobs.relay.frames import pack
from taskobs.relay.packing import tidy


class FactObserver(Observer):
    """Sends a FACT for each run that ends here.

    Attach it after the spans: observers are closed in the reverse order, and where the run's
    span is sampled the FACT leaves with its END, in one system call; unless spans go elsewhere
    (``with_spans=False``).
    """

    def __init__(
        self,
        client: RelayClient,
        *,
        with_spans: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._with_spans = with_spans
        self._clock = clock

    def run(self, run: Run) -> AbstractContextManager[object]:
        """Open for a run, and tell of it at its end."""
        return _Open(self, run, run.started or self._clock())

    def tell(self, run: Run, started: float) -> None:
        """Send the fact of a run that has ended; nothing if its process ends with it."""
        client = self._client
        if run.abandoned or client.gone:
            return
        with_its_span = self._with_spans and run.span is not None and run.span.sampled
        client.fact(self._fact(run, started), soon=not with_its_span)

    def _fact(self, run: Run, started: float) -> bytes:
        outcome = run.outcome or Outcome.SUCCEEDED
        fact = [
            # The name of an unknown task is a stranger's choice: no label of a metric.
            run.task if outcome is not Outcome.UNKNOWN else "",
            outcome.value,
            run.queue,
            started,
            max(0.0, self._clock() - started) if run.ran else None,
            run.queue_latency,
            run.attempt,
            run.pid or os.getpid(),
        ]
        try:
            return pack(fact)
        except (OverflowError, TypeError, ValueError):
            return pack(tidy(fact))


class _Open:
    """An open run; a class, as a generator costs as much again as the rest."""

    __slots__ = ("_observer", "_run", "_started")

    def __init__(self, observer: FactObserver, run: Run, started: float) -> None:
        self._observer = observer
        self._run = run
        self._started = started

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._observer.tell(self._run, self._started)
