"""What waits in Redis, as kombu keeps it there.

A queue is a list for each of ``priority_steps``: new messages come in on the left, and workers take
them from the right. What workers have taken is in one hash of all queues, by delivery tag.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple, cast

from taskobs import semconv
from taskobs.celery.adapter.headers import queue_latency
from taskobs.celery.queues.readings import OLDEST_AGE, READY, UNACKED, QueueReading, Reading

QueueOf = Callable[[str, str], "str | None"]
"""Returns the queue of an exchange and a routing key; the exchange, if it is no one queue."""

_MOST_UNACKED: Final = 100_000
_READ_AT_ONCE: Final = 100
_MOST_READ: Final = 1000
_MOST_BYTES: Final = 8 * 1024 * 1024
"""What one poll reads of unacked messages that were not read before."""
_NO_TIME: Final = "the oldest message was published without taskobs' traces"


class _Taken(NamedTuple):
    """Unacked messages by queue, and why some of it is not known."""

    by_queue: Counter[str]
    reason: str = ""
    unclear: Collection[str] = ()
    """The queues of which it is not known."""

    def of(self, name: str) -> int | None:
        """Return the number of a queue's."""
        return None if name in self.unclear else self.by_queue[name]


class RedisQueues:
    """Reads queues through a channel of kombu's. Remembers the queues of unacked messages.

    ``bound_to`` returns the names of the queues that are bound to an exchange.
    """

    def __init__(
        self,
        queue_of: QueueOf,
        bound_to: Callable[[str], Collection[str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._queue_of = queue_of
        self._bound_to = bound_to
        self._clock = clock
        self._tags: dict[bytes, str] = {}

    def read(self, channel: Any, names: Sequence[str]) -> Reading:
        """Read the queues with these names."""
        from redis import Redis

        # kombu's own client prefixes the keys of some commands, and not of all that are used here.
        client = Redis(connection_pool=channel.pool)
        lists = self._lists(client, channel, names)
        unacked = self._unacked(client, f"{channel.global_keyprefix}{channel.unacked_key}", names)
        unknown = {UNACKED: unacked.reason} if unacked.reason else {}
        queues: list[QueueReading] = []
        for name, (lengths, heads) in zip(names, lists, strict=True):
            ready = None if None in lengths else sum(map(int, cast("list[int]", lengths)))
            age = self._age(heads)
            if ready is None:
                unknown[READY] = "Redis refuses to say the length of a list"
            elif age is None:
                unknown[OLDEST_AGE] = _NO_TIME
            taken = unacked.of(name)
            queues.append(QueueReading(name=name, ready=ready, unacked=taken, oldest_age=age))
        return Reading(queues=tuple(queues), unknown=unknown)

    def _lists(
        self, client: Any, channel: Any, names: Sequence[str]
    ) -> list[tuple[list[int | None], list[object]]]:
        """Return the lengths of the lists of each queue, and the message that is next in each."""
        pipeline = client.pipeline(transaction=False)
        steps = len(channel.priority_steps)
        for name in names:
            for step in channel.priority_steps:
                key = f"{channel.global_keyprefix}{name}{f'{channel.sep}{step}' if step else ''}"
                pipeline.llen(key)
                pipeline.lindex(key, -1)
        found = pipeline.execute(raise_on_error=False)
        lengths = [one if isinstance(one, int) else None for one in found[::2]]
        heads = found[1::2]
        return [
            (lengths[at : at + steps], heads[at : at + steps])
            for at in range(0, len(lengths), steps)
        ]

    def _age(self, heads: Iterable[object]) -> float | None:
        """Return the age of the oldest; 0 if there is none, None if any has no time of its publish.

        The order in a list is that of the publishes, so the next message is its oldest.
        """
        waited = [self._waited(head) for head in heads if head is not None]
        return None if None in waited else max(cast("list[float]", waited), default=0.0)

    def _waited(self, head: object) -> float | None:
        try:
            headers: Any = json.loads(cast("bytes", head))["headers"]
            published = headers[semconv.HEADER_PUBLISHED_AT]
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        if not isinstance(published, str):
            return None
        # Without an ETA: what is still in the queue waits for a worker, whatever its ETA is.
        return queue_latency({semconv.HEADER_PUBLISHED_AT: published}, None, self._clock())

    def _unacked(self, client: Any, key: str, names: Sequence[str]) -> _Taken:
        """Count unacked messages by queue; of those that are new, at most so many are read."""
        number = client.hlen(key)
        if number > _MOST_UNACKED:
            return _Taken(Counter(), f"{number} messages are unacked: too many to read", names)
        tags: list[bytes] = client.hkeys(key)
        seen = {tag: self._tags[tag] for tag in tags if tag in self._tags}
        new = [tag for tag in tags if tag not in seen]
        self._tags = {**seen, **self._read_tags(client, key, new[:_MOST_READ])}
        left = sum(tag not in self._tags for tag in tags)
        if left:
            return _Taken(Counter(), f"{left} unacked messages are not read yet", names)
        counted = Counter(queue for queue in self._tags.values() if queue)
        # What is for no one queue is counted under its exchange.
        unclear = {name for other in counted.keys() - {*names} for name in self._bound_to(other)}
        reason = "a message goes to several queues, and Redis doesn't say which" if unclear else ""
        return _Taken(counted, reason, unclear)

    def _read_tags(self, client: Any, key: str, tags: Sequence[bytes]) -> dict[bytes, str]:
        """Return the queue of each message; empty for one that has just been acknowledged."""
        found: dict[bytes, str] = {}
        read = 0
        for at in range(0, len(tags), _READ_AT_ONCE):
            some = tags[at : at + _READ_AT_ONCE]
            values: list[bytes | None] = client.hmget(key, some)
            found.update(zip(some, map(self._queue_of_unacked, values), strict=True))
            read += sum(len(value or b"") for value in values)
            if read > _MOST_BYTES:
                break
        return found

    def _queue_of_unacked(self, value: bytes | None) -> str:
        try:
            _, exchange, key = json.loads(value or b"")
            return self._queue_of(str(exchange or ""), str(key or "")) or ""
        except (ValueError, TypeError, RecursionError):
            return ""
