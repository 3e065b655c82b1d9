"""Asks the broker and the result backend of an app whether they respond."""

# Celery and kombu ship no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, Final
from uuid import uuid4

from celery.backends.base import DisabledBackend

from taskobs.celery.adapter import brokers
from taskobs.celery.queues.connection import opened
from taskobs.cli.doctor.asking.waiting import LATE, within_time
from taskobs.cli.doctor.evidence import Clock, Connection
from taskobs.observers.own_traffic import suppressed

_SECONDS: Final = 4.0


def ask_broker(app: Any) -> tuple[Connection, Clock | None]:  # noqa: ANN401  # Celery's app
    """Connect once; also read the clock of a Redis server."""
    address = _address(app)
    timed_out: tuple[Connection, Clock | None] = Connection(address, LATE), None
    return within_time(lambda: _ask_broker(app, address), timed_out)


def _ask_broker(app: Any, address: str) -> tuple[Connection, Clock | None]:  # noqa: ANN401  # same
    try:
        with broker_connection(app) as connection, suppressed():
            channel = connection.channel()
            try:
                return Connection(address), _clock(channel, address)
            finally:
                channel.close()
    except Exception as error:  # noqa: BLE001  # transports raise whatever their library does
        return Connection(address, in_words(error)), None


@contextmanager
def broker_connection(app: Any) -> Generator[Any]:  # noqa: ANN401  # same, and kombu's connection
    """Have a connection for messages."""
    connection = opened(app, app.connection_for_write, _SECONDS)
    try:
        yield connection
    finally:
        with suppress(Exception):
            connection.release()


def ask_backend(app: Any) -> Connection:  # noqa: ANN401  # Celery's app
    """Ask for a result that is not there."""
    try:
        backend = app.backend
        address = str(backend.as_uri(include_password=False))
    except Exception as error:  # noqa: BLE001  # its library may be missing, or its URL wrong
        return Connection("", in_words(error))
    if isinstance(backend, DisabledBackend):
        return Connection("")
    if is_rpc(backend):  # which reads by consuming
        return Connection("rpc://")
    return within_time(lambda: _ask_backend(backend, address), Connection(address, LATE))


def is_rpc(backend: object) -> bool:
    """Tell whether results are messages of the broker."""
    return type(backend).__module__ == "celery.backends.rpc"


def _ask_backend(backend: Any, address: str) -> Connection:  # noqa: ANN401  # Celery's
    try:
        with suppressed():
            backend.get_task_meta(str(uuid4()))
    except Exception as error:  # noqa: BLE001  # backends raise whatever their library does
        return Connection(address, in_words(error))
    return Connection(address)


def in_words(error: BaseException) -> str:
    """Return an error in one line; its secrets are masked where it is shown."""
    # Not its first cause: that of a client of Redis is that its pool of connections was empty.
    return " ".join(f"{type(error).__name__}: {error}".split())


def _address(app: Any) -> str:  # noqa: ANN401  # Celery's app
    found = brokers.consumed_from(app)
    where = f"{found.address}:{found.port}" if found.port else found.address
    return f"{found.system} at {where}" if where else found.system


def _clock(channel: Any, address: str) -> Clock | None:  # noqa: ANN401  # kombu's
    client: Any = getattr(channel, "client", None)
    with suppress(Exception):  # a transport whose client has another `time`, or none
        began = time.time()
        seconds, microseconds = client.time()
        return Clock(address, seconds + microseconds / 1e6 - (began + time.time()) / 2)
    return None
