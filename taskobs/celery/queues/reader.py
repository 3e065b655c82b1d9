"""Reads the queues of an app's broker, over the app's own kind of connection."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from taskobs.celery import _compat
from taskobs.celery._types import App
from taskobs.celery.adapter import brokers
from taskobs.celery.adapter.queues import queue_of
from taskobs.celery.queues.connection import opened
from taskobs.celery.queues.discovery import configured_queues, unique
from taskobs.celery.queues.management import Management
from taskobs.celery.queues.rabbitmq import RabbitQueues
from taskobs.celery.queues.readings import (
    CONSUMERS,
    OLDEST_AGE,
    READY,
    UNACKED,
    QueueReading,
    Reading,
)
from taskobs.celery.queues.redis import RedisQueues
from taskobs.celery.queues.workers import WorkersUnknown, ask_workers
from taskobs.observers.own_traffic import suppressed

_TIME: Final = 5.0
"""Seconds that the broker may take to connect, or to answer."""
_CREDENTIALS: Final = re.compile(r"//[^/\s]*@")


class BrokerError(Exception):
    """The broker can't be reached, or not be asked; the message has no password in it."""


class QueueReader:
    """Reads the queues of an app, again and again; not thread-safe.

    It has one connection, which is made anew after any failure. ``more`` are queues that the app's
    configuration doesn't name; ``broker_api`` is where RabbitMQ's management API is.
    """

    def __init__(
        self, app: App, *, more: Iterable[str] = (), broker_api: str | None = None
    ) -> None:
        self.names = unique([*configured_queues(app), *more])
        """All queues that were found so far."""
        self._app = app
        self._broker_api = broker_api
        self._connection: Any = None
        self._redis = RedisQueues(partial(queue_of, app), partial(_bound_to, app))
        self._rabbit: RabbitQueues | None = None

    @property
    def broker(self) -> str:
        """Which broker it is, for a log line."""
        found = brokers.consumed_from(self._app)
        where = f"{found.address}:{found.port}" if found.port else found.address
        return f"{found.system} at {where}" if where else found.system

    def read(self) -> Reading:
        """Read all queues once; where the broker's library is instrumented, no span is made of it.

        Raises:
            BrokerError: the broker can't be reached.
        """
        with suppressed():
            return self._read_or_reconnect()

    def _read_or_reconnect(self) -> Reading:
        if self._connection is not None:
            try:
                return self._read(self._connection)
            except Exception as error:  # noqa: BLE001  # as below
                self.close()
                if _timed_out(error):
                    raise BrokerError(_without_secrets(error)) from None
                # Else the broker, or something between, may have closed the idle connection.
        try:
            self._connection = self._connect()
            return self._read(self._connection)
        except Exception as error:  # noqa: BLE001  # transports raise whatever their library does
            self.close()
            raise BrokerError(_without_secrets(error)) from None

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        with suppress(Exception):
            if connection is not None:
                connection.release()

    def _connect(self) -> Any:
        """Open a connection as a worker would, but for its patience."""
        app: Any = self._app
        connection = opened(app, app.connection_for_read, _TIME)
        self._rabbit = RabbitQueues(Management(self._broker_api, connection))
        return connection

    def _read(self, connection: Any) -> Reading:
        try:
            workers, reason = ask_workers(self._app, connection), ""
        except WorkersUnknown as error:
            workers, reason = None, str(error)
        self.names = unique([*self.names, *(workers or ())])
        reading = self._of_broker(connection, self.names)
        return _with_consumers(reading, workers, reason)

    def _of_broker(self, connection: Any, names: Sequence[str]) -> Reading:
        system = brokers.of_connection(connection).system
        if system == "rabbitmq" and self._rabbit is not None:
            return self._rabbit.read(connection, names)
        channel = connection.channel()
        try:
            if system == "redis":
                return self._redis.read(channel, names)
            return _of_other(channel, names, system)
        finally:
            channel.close()


def _bound_to(app: App, exchange: str) -> set[str]:
    """Return the names of the app's queues that are bound to an exchange."""
    queues: list[Any] = [*app.amqp.queues.values()]
    return {queue.name for queue in queues if exchange == getattr(queue.exchange, "name", None)}


def _of_other(channel: Any, names: Sequence[str], system: str) -> Reading:
    """Read what kombu knows of the queues of any other transport: how long they are."""
    sizes = [_compat.queue_size(channel, name) for name in names]
    reason = f"it can't be known of {system}"
    unknown = dict.fromkeys((UNACKED, OLDEST_AGE), reason)
    if None in sizes:
        unknown[READY] = reason
    queues = [
        QueueReading(name=name, ready=size, oldest_age=0.0 if size == 0 else None)
        for name, size in zip(names, sizes, strict=True)
    ]
    return Reading(queues=tuple(queues), unknown=unknown)


def _with_consumers(reading: Reading, workers: dict[str, int] | None, reason: str) -> Reading:
    """Add how many workers consume from each queue, where the broker has not said it."""
    if all(queue.consumers is not None for queue in reading.queues) or CONSUMERS in reading.unknown:
        return reading
    if workers is None:
        return replace(reading, unknown={**reading.unknown, CONSUMERS: reason})
    queues = [replace(queue, consumers=workers.get(queue.name, 0)) for queue in reading.queues]
    return replace(reading, queues=tuple(queues))


def _timed_out(error: Exception) -> bool:
    """Whether the broker was waited for; clients have exceptions of their own for that."""
    return isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutError"


def _without_secrets(error: Exception) -> str:
    """Return an exception in one line, without what stands before the host of a URL."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return _CREDENTIALS.sub("//***@", text)
