"""A connection to an app's broker for a single question: nothing waits for the broker to return."""

# Celery and kombu ship no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from taskobs.celery.adapter import brokers

_AT_ONCE: Final = {"max_retries": 1, "interval_start": 0, "interval_step": 0}


def opened(app: Any, make: Callable[..., Any], seconds: float) -> Any:
    """Open a connection as ``make``, a method of the app's, gives it.

    ``seconds`` is how long the broker may take to connect, or to answer, unless the app says it. A
    broker that refuses is asked again, or another of a list is, at once: ``connect()`` of kombu's
    waits for two seconds, whatever the options say (seen in 5.7).
    """
    given: dict[str, Any] = app.conf.broker_transport_options or {}
    timeouts = _timeouts(brokers.consumed_from(app).system, seconds)
    connection = make(heartbeat=0, transport_options={**timeouts, **given, **_AT_ONCE})
    try:
        # Raises what the transport's library does, as connect() would.
        connection.ensure_connection(**_AT_ONCE, reraise_as_library_errors=False)
    except BaseException:
        with suppress(Exception):
            connection.release()
        raise
    return connection


def _timeouts(system: str, seconds: float) -> dict[str, float]:
    if system == "redis":
        return {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    if system == "rabbitmq":
        return {"read_timeout": seconds, "write_timeout": seconds}
    return {}
