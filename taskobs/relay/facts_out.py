"""Facts of runs go to the relay, which counts them for the whole worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

from taskobs.facts import Outcome, Run
from taskobs.observers.base import Observer
from taskobs.relay.client import RelayClient
from taskobs.relay.frames import Kind, pack
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
        return self._tell(run)

    @contextmanager
    def _tell(self, run: Run) -> Generator[None]:
        started = run.started or self._clock()
        try:
            yield
        finally:
            if not run.abandoned and not self._client.gone:
                deliver = self._client.send
                if self._with_spans and run.span is not None and run.span.sampled:
                    deliver = self._client.put
                deliver(Kind.FACT, self._fact(run, started))

    def _fact(self, run: Run, started: float) -> bytes:
        outcome = run.outcome or Outcome.SUCCEEDED
        return pack(
            [
                # The name of an unknown task is a stranger's choice: no label of a metric.
                tidy(run.task) if outcome is not Outcome.UNKNOWN else "",
                outcome.value,
                tidy(run.queue),
                started,
                max(0.0, self._clock() - started),
                run.queue_latency,
                run.attempt,
                run.pid or os.getpid(),
            ]
        )
