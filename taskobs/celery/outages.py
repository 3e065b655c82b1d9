"""Broker outages: Celery logs each failed attempt to connect; Sentry gets one event per outage.

Each process tracks outages on its own. Repeats are suppressed in Sentry only, not in the log.
"""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from celery import signals
from kombu.exceptions import OperationalError

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.internal.wrapping import Patches

_UID: Final = "taskobs.outages"
_CONSUMER, _BEAT, _RESULTS = "consumer", "beat", "results"
_MESSAGES: Final = (
    ("celery.worker.consumer.consumer", "consumer: Cannot connect to", _CONSUMER),
    ("celery.beat", "beat: Connection error", _BEAT),
    ("celery.beat", "beat pidbox: Connection error", _BEAT),
    ("celery.beat", "beat pidbox connection error", _BEAT),
    ("celery.backends.redis", "Connection to Redis lost", _RESULTS),
)
_WITH_CAUSE: Final = (
    ("celery.beat", "Message Error:", _BEAT),
    # A worker that gives up, after broker_connection_max_retries.
    ("celery.worker", "Unrecoverable error:", _CONSUMER),
)
"""Records of other errors too: the exception tells whether the cause is an outage."""
_CAUSES: Final = 20


class Outages:
    """Distinguishes the first log record of an outage from its repeats."""

    def __init__(self) -> None:
        self._down: set[str] = set()
        self._unanswered: set[tuple[str, str]] = set()
        """Brokers of which an outage was reported, and that have not answered since.

        With a list to fail over to, one of them can be away for long while another one is used.
        """
        self._wrappers = Patches()
        forksafe.add(self, ForkStep.EXPORT)

    def watch_worker(self) -> None:
        """Notice from now on when this worker is connected again."""
        from celery.worker.consumer import Consumer

        self._wrappers.wrap(Consumer, "ensure_connected", self._until_back(_CONSUMER))

    def watch_beat(self) -> None:
        """Notice from now on when this beat is connected again: at its next publish."""
        signals.after_task_publish.connect(self._published, weak=False, dispatch_uid=_UID)

    def close(self) -> None:
        """Stop watching."""
        self._wrappers.remove()
        signals.after_task_publish.disconnect(dispatch_uid=_UID)
        self.after_fork()

    def after_fork(self) -> None:
        """Forget the parent's outages: a forked child has its own connections."""
        self._down.clear()
        self._unanswered.clear()

    def repeats(self, record: logging.LogRecord) -> bool:
        """Tell whether a log record is of an outage that was reported already."""
        what = _outage(record)
        if what is None:
            return False
        broker = what, _address(record)
        # A worker opens several connections, and each tries the first broker of a list. One that is
        # known to be away must not start an outage: that of the next one would be its repeat.
        if broker in self._unanswered:
            return True
        self._unanswered.add(broker)
        if what in self._down:
            return True
        self._down.add(what)
        redis = sys.modules.get("celery.backends.redis")
        if what == _RESULTS and redis is not None:
            self._wrappers.wrap(redis.RedisBackend, "ensure", self._until_back(_RESULTS))
        return False

    def _until_back(self, what: str) -> Callable[..., Any]:
        def around(
            connect: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            connected = connect(*args, **kwargs)
            self._is_back(what, _uri_of(connected) if what == _CONSUMER else "")
            return connected

        return around

    def _published(self, **_: Any) -> None:
        self._is_back(_BEAT)

    def _is_back(self, what: str, address: str = "") -> None:
        self._down.discard(what)
        self._unanswered -= {(what, ""), (what, address)}


def _outage(record: logging.LogRecord) -> str | None:
    message = str(record.msg)
    for logger, words, what in _MESSAGES:
        if record.name == logger and message.startswith(words):
            return what
    for logger, words, what in _WITH_CAUSE:
        if record.name == logger and message.startswith(words):
            error = record.exc_info[1] if record.exc_info else None
            return what if any(map(_is_of_connection, _causes(error))) else None
    return None


def _address(record: logging.LogRecord) -> str:
    """Return the address that a record of Celery's names first; empty if it names none."""
    first = record.args[0] if isinstance(record.args, tuple) and record.args else ""
    return first if isinstance(first, str) else ""


def _uri_of(connection: Any) -> str:
    """Return the address of a connection of kombu's as Celery writes it into the log."""
    with suppress(Exception):  # an object of another kind, or a transport that can't say
        return str(connection.as_uri())
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _is_of_connection(error: BaseException) -> bool:
    """Compare types; a transport's own exception types by name."""
    return isinstance(error, (OperationalError, ConnectionError)) or any(
        kind.__name__ == "ConnectionError" for kind in type(error).__mro__
    )
