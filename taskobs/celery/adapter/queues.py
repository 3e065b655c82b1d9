"""The one name of the queue that a message goes to, whatever lies between.

Celery says of a message which exchange it is published to, with which routing key. A queue that it
declares beside counts only if the exchange routes the message there: an exchange and a key that are
given with a task replace those of the default queue, which is declared all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from taskobs.celery._types import App

CHARS: Final = 255
"""AMQP's limit for the name of a queue, and for a routing key."""
_MOST: Final = 500
_DELAYED: Final = r"(?:.+_)?celery_delayed_(?:\d+|delivery)"
# kombu writes the seconds of a delay as 28 bits before the routing key (seen in 5.5 to 5.7).
_DELAY: Final = r"(?:[01]\.){28}"
_DELAYED_NAME: Final = "celery_delayed"

_by_route: Final[WeakKeyDictionary[Any, dict[object, str]]] = WeakKeyDictionary()


def queue_of(app: App, exchange: str, key: object, declared: Iterable[Any] = ()) -> str | None:
    """Return the name of a message's queue; of its exchange, where no one queue is known for it.

    ``declared`` are the queues that are declared with a publish.
    """
    if not exchange:  # the default exchange: the key is the queue's name, as nearly always
        return None if key is None else str(key)[:CHARS]
    names = tuple(name for name in map(name_of_queue, declared or ()) if name)
    remembered = _by_route.setdefault(app, {})
    question = exchange, key, names
    found = remembered.get(question)
    if found is None:
        if len(remembered) >= _MOST:  # keys are chosen by whoever publishes
            remembered.clear()
        found = remembered[question] = _find(app, exchange, str(key or ""), names)[:CHARS]
    return found


def is_delay_queue(name: str) -> bool:
    """Whether a queue or exchange is one of those in which RabbitMQ delays messages for Celery."""
    return re.fullmatch(_DELAYED, name) is not None


def _find(app: App, exchange: str, key: str, declared: tuple[str, ...]) -> str:
    delayed = is_delay_queue(exchange) and re.match(_DELAY, key) is not None
    if delayed:
        key = re.sub(_DELAY, "", key, count=1)
    try:
        queues: list[Any] = [*app.amqp.queues.values()]
        found = {
            name_of_queue(queue): None
            for queue in queues
            if _reaches(queue, exchange, key, delayed)
        }
    except Exception:  # noqa: BLE001  # queues that Celery can't use either
        found = {}
    if len(found) > 1:
        found = {name: None for name in found if name in declared}
    if len(found) == 1:
        return next(iter(found))
    return _DELAYED_NAME if delayed else exchange


def _reaches(queue: Any, exchange: str, key: str, delayed: bool) -> bool:  # noqa: FBT001
    """Whether a queue gets what is published to an exchange with a routing key."""
    for bound, pattern in _bindings(queue):
        if delayed:
            # Delayed messages reach an exchange through a binding of `#.key`. Direct ones are left
            # out by kombu; a fanout one has the default key, which was not meant for it.
            if bound.type == "topic" and _matches(["#", *pattern.split(".")], key.split(".")):
                return True
        elif bound.name == exchange and _routes(bound.type, pattern, key):
            return True
    return False


def _bindings(queue: Any) -> Iterator[tuple[Any, str]]:
    if queue.exchange is not None:
        yield queue.exchange, str(queue.routing_key or "")
    for each in queue.bindings or ():
        yield each.exchange, str(each.routing_key or "")


def _routes(kind: str, pattern: str, key: str) -> bool:
    if kind == "topic":
        return _matches(pattern.split("."), key.split("."))
    # An exchange of headers, or of a plug-in, routes by what is not known here.
    return kind == "fanout" or (kind == "direct" and pattern == key)


def _matches(pattern: list[str], words: list[str]) -> bool:
    """Match a topic: ``*`` is one word, ``#`` any number of words."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _matches(pattern[1:], words[1:])


def name_of_queue(queue: Any) -> str:
    """Return what people call a queue: a broadcast has a random name for each of its workers."""
    return getattr(queue, "alias", None) or getattr(queue, "name", None) or ""
