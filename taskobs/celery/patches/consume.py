"""Finds the queue and the broker from which a worker receives a message.

A message names the exchange and the routing key that it was published with. After dead-lettering,
a delay or a topic exchange, neither names its queue; only the consumer knows it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

from kombu import Queue

from taskobs import semconv
from taskobs.celery.adapter import brokers
from taskobs.celery.adapter.queues import name_of_queue
from taskobs.internal.guard import Guard
from taskobs.internal.wrapping import Patches
from taskobs.model import NOWHERE, Broker


class Source(NamedTuple):
    """The queue and the broker of a message."""

    queue: str
    broker: Broker


_source: ContextVar[Source | None] = ContextVar("taskobs_source", default=None)


def current_source() -> Source | None:
    """Return the source of the message that is being handled; None if none is."""
    return _source.get()


def note_source(fields: dict[str, Any], app: Any, source: Source | None) -> None:
    """Add the source of a request's message to its fields, where they don't have it yet.

    Values that its sender wrote under these names are untrusted.
    """
    fields.pop(semconv.HEADER_QUEUE, None)
    fields.pop(semconv.HEADER_BROKER, None)
    if source is None:
        return
    route = fields.get("delivery_info")
    given = cast("dict[str, object]", route if isinstance(route, dict) else {})
    if source.queue and (given.get("exchange") or given.get("routing_key") != source.queue):
        fields[semconv.HEADER_QUEUE] = source.queue
    if source.broker not in (NOWHERE, brokers.consumed_from(app)):
        fields[semconv.HEADER_BROKER] = brokers.as_text(source.broker)


class ConsumePatch:
    """Wraps the callbacks of consumers that start after ``install``."""

    def __init__(self) -> None:
        self._guard = Guard()
        self._wrappers = Patches()

    def install(self) -> None:
        """Wrap ``kombu.Queue.consume``; all transports call it for each queue and connection."""
        self._wrappers.wrap(Queue, "consume", self._consume)

    def remove(self) -> None:
        """Unwrap it; the callbacks of running consumers stay wrapped."""
        self._wrappers.remove()

    def _consume(
        self, consume: Callable[..., Any], queue: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if len(args) > 1:
            args = (args[0], self._noting(queue, args[1]), *args[2:])
        elif kwargs.get("callback") is not None:
            kwargs = {**kwargs, "callback": self._noting(queue, kwargs["callback"])}
        return consume(*args, **kwargs)

    def _noting(self, queue: Any, callback: Callable[..., Any]) -> Callable[..., Any]:
        source, varies, channel = Source(name_of_queue(queue), NOWHERE), False, queue.channel
        with self._guard:
            connection = channel.connection.client
            source = Source(source.queue, brokers.of_connection(connection))
            varies = brokers.asks_sentinel(connection)

        def noting(*message: Any, **more: Any) -> Any:
            token = _source.set(self._source_now(source, channel) if varies else source)
            try:
                return callback(*message, **more)
            finally:
                _source.reset(token)

        return noting

    def _source_now(self, source: Source, channel: Any) -> Source:
        """Return a source with the server that its channel is connected to at this moment."""
        with self._guard:
            return Source(source.queue, brokers.received_over(channel))
        return source
