"""A reading as metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from taskobs import semconv
from taskobs.celery.queues.readings import READY, UNACKED, QueueReading, Reading
from taskobs.metrics.families import Family, Sample

_MESSAGES: Final = "Messages in a queue: ready for a worker, or taken by one and not acknowledged."
_AGE: Final = "Seconds since the publish of the oldest message that is ready; 0 if none is."
_CONSUMERS: Final = "Workers that consume from a queue."
_CONNECTED: Final = "Whether the broker could be asked: 1 or 0."


def families_of(reading: Reading, *, connected: bool) -> list[Family]:
    """Return the metrics of a reading. What is not known has no series."""
    queues = reading.queues
    messages = [sample for queue in queues for sample in _messages(queue)]
    ages = [Sample(_of(q), q.oldest_age) for q in queues if q.oldest_age is not None]
    consumers = [Sample(_of(q), float(q.consumers)) for q in queues if q.consumers is not None]
    return [
        _gauge(semconv.METRIC_QUEUE_MESSAGES, _MESSAGES, "{message}", messages),
        _gauge(semconv.METRIC_QUEUE_OLDEST_AGE, _AGE, "s", ages),
        _gauge(semconv.METRIC_QUEUE_CONSUMERS, _CONSUMERS, "{consumer}", consumers),
        _gauge(semconv.METRIC_MONITOR_CONNECTED, _CONNECTED, "", [Sample({}, float(connected))]),
    ]


def _gauge(name: str, meaning: str, unit: str, samples: list[Sample]) -> Family:
    return Family(name=name, kind="gauge", meaning=meaning, unit=unit, samples=samples)


def _messages(queue: QueueReading) -> Iterator[Sample]:
    for state, number in ((READY, queue.ready), (UNACKED, queue.unacked)):
        if number is not None:
            yield Sample({**_of(queue), semconv.CELERY_STATE: state}, float(number))


def _of(queue: QueueReading) -> dict[str, str]:
    return {semconv.CELERY_QUEUE: queue.name}
