"""Sends one record of each run to the relay, which makes metrics of them for the whole worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from taskobs.model import Outcome, Run
from taskobs.observers.base import Observer
from taskobs.protocol.frames import FrameKind, pack
from taskobs.protocol.sanitize import UNEXPECTED, sanitize
from taskobs.relay_client.client import RelayClient

_MOST: Final = 4_096
"""Bytes of a record; a longer one has its texts cut."""
_CHARS: Final = 255
_WAITING: Final = 64
"""Payloads that may wait for an END."""


class RunMetricObserver(Observer):
    """Sends a RUN_METRIC frame for each run that ends in this process.

    If the run's span is sampled, the frame waits for the span's END, which follows at once; not if
    spans go elsewhere (``with_spans=False``).
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

    def ended(self, run: Run) -> None:
        """Send the record of a run that has ended; the main process does if this process dies."""
        client = self._client
        if run.abandoned or client.unavailable:
            return
        payload, waiting = self._run_metric(run), client.run_metrics
        with_its_span = self._with_spans and run.span is not None and run.span.sampled
        if with_its_span and len(waiting) < _WAITING:
            waiting.append(payload)
        else:
            client.send(FrameKind.RUN_METRIC, payload)

    def _run_metric(self, run: Run) -> bytes:
        outcome = run.outcome or Outcome.SUCCEEDED
        # Whoever sends a message chooses the name of an unknown task: as a label of a metric it
        # would have no bound.
        task = run.task if outcome is not Outcome.UNKNOWN else ""
        if not run.ran:
            seconds = None
        elif run.ticks and run.started is None:
            seconds = time.monotonic() - run.ticks
        else:  # it ran in another process; the wall clock may have been set back since
            seconds = max(0.0, self._clock() - (run.started or run.began))
        run_metric = (task, outcome._value_, run.queue, seconds)
        try:
            packed = pack(run_metric)
        except UNEXPECTED:
            packed = b""
        if 0 < len(packed) <= _MOST:
            return packed
        return pack([*map(_label, (task, outcome._value_, run.queue)), seconds])


def _label(text: object) -> object:
    """Return a value of any type and length as a label."""
    return sanitize(text[:_CHARS]) if isinstance(text, str) else None
