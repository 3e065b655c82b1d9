"""What waits in RabbitMQ: by AMQP, and by its management API where that can be asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from taskobs.celery.queues.management import Management, ManagementError
from taskobs.celery.queues.readings import (
    CONSUMERS,
    OLDEST_AGE,
    READY,
    UNACKED,
    QueueReading,
    Reading,
)

_NOT_FOUND: Final = 404
_NO_TIME: Final = (
    "RabbitMQ doesn't tell the time of the oldest message: the message has none, "
    "the queue is a quorum queue, or the statistics are some seconds old"
)


class RabbitQueues:
    """Reads queues through a connection of kombu's."""

    def __init__(self, management: Management, clock: Callable[[], float] = time.time) -> None:
        self._management = management
        self._clock = clock
        self._unknown: dict[str, str] = {}

    def read(self, connection: Any, names: Sequence[str]) -> Reading:
        """Read the queues with these names."""
        self._unknown = {}
        counted = [self._declared(connection, name) for name in names]
        queues = tuple(map(self._with_details, counted))
        return Reading(queues=queues, unknown=self._unknown)

    def _declared(self, connection: Any, name: str) -> QueueReading:
        """Ask for a queue by a passive declaration: it makes none, and counts.

        The broker closes the channel if the queue is not there, so each has a channel of its own.
        """
        channel = connection.channel()
        try:
            found = channel.queue_declare(queue=name, passive=True)
        except connection.channel_errors as error:
            if getattr(error, "reply_code", None) == _NOT_FOUND:
                return QueueReading(name=name, ready=0, unacked=0, oldest_age=0.0, consumers=0)
            self._unknown |= dict.fromkeys((READY, CONSUMERS), f"RabbitMQ refuses: {error}")
            return QueueReading(name=name)
        finally:
            with suppress(Exception):  # it is closed already
                channel.close()
        age = None if found.message_count else 0.0
        return QueueReading(
            name=name,
            ready=found.message_count,
            oldest_age=age,
            consumers=found.consumer_count,
        )

    def _with_details(self, queue: QueueReading) -> QueueReading:
        """Add what the management API alone knows; once it fails, it is not asked again now."""
        if queue.unacked is not None or UNACKED in self._unknown:
            return queue
        try:
            found = self._management.queue(queue.name)
        except ManagementError as error:
            self._unknown |= dict.fromkeys((UNACKED, OLDEST_AGE), str(error))
            return queue
        age = queue.oldest_age
        if age is None and found.head_at is not None:
            age = max(0.0, self._clock() - found.head_at)
        if age is None:
            self._unknown[OLDEST_AGE] = _NO_TIME
        return QueueReading(
            name=queue.name,
            ready=queue.ready,
            unacked=found.unacked,
            oldest_age=age,
            consumers=queue.consumers,
        )
