"""Makes a Sentry client, flushes and closes it in bounded time, and renews it after a fork."""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol, cast

import sentry_sdk
from sentry_sdk.client import BaseClient
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations import DidNotEnable, Integration
from sentry_sdk.monitor import Monitor
from sentry_sdk.sessions import SessionFlusher
from sentry_sdk.transport import Transport, make_transport

from taskobs.internal.hidden_modules import hidden_modules
from taskobs.internal.timeouts import run_with_timeout
from taskobs.sentry import _compat, integrations
from taskobs.sentry.relay_transport import RelayTransport

_GRACE: Final = 0.1
_QUEUE: Final = 1_000
"""Size of Sentry's send queue: its default of 100 overflows when 100 tasks fail at once."""
_BATCHERS: Final = ("log_batcher", "metrics_batcher", "span_batcher")


class SentrySettings(Protocol):
    """The settings that are read here."""

    @property
    def sentry_dsn(self) -> str | None:
        """Where errors go; None for nowhere."""
        ...

    @property
    def environment(self) -> str | None:
        """Sentry's environment; None for Sentry's default."""
        ...

    @property
    def release(self) -> str | None:
        """Sentry's release; None for what Sentry finds itself."""
        ...

    @property
    def send_arguments(self) -> bool:
        """Whether the arguments of failed tasks are sent."""
        ...

    @property
    def shutdown_timeout(self) -> float:
        """Seconds that a shutdown may take."""
        ...


def make_client(settings: SentrySettings) -> BaseClient:
    """Make a client for errors only: no tracing, and only the integrations that need no library.

    ``Integrations`` enables the others, except Sentry's own for Celery.
    """
    wanted: dict[str, object] = {
        "dsn": settings.sentry_dsn,
        "environment": settings.environment,
        "release": settings.release,
        "auto_enabling_integrations": not integrations.available(),
        "shutdown_timeout": 0,  # `drain` bounds the flush, so Sentry's atexit hook must not wait
        "transport_queue_size": _QUEUE,
        "enable_backpressure_handling": False,  # only needed for tracing, and starts a thread
        **_compat.fast_compression(),
    }
    if "include_local_variables" in DEFAULT_OPTIONS:
        wanted["include_local_variables"] = settings.send_arguments
    elif not settings.send_arguments:  # 3.x, whose defaults send all of these
        wanted["data_collection"] = {
            "stack_frame_variables": False,
            "queues": False,
            "user_info": False,
            "http_bodies": [],
        }
    options: Any = {name: value for name, value in wanted.items() if name in DEFAULT_OPTIONS}
    if not integrations.available():  # Sentry enables all: its Celery one reports failures again
        options["disabled_integrations"] = _stock_integration()
    with _without_spotlights_django():
        return sentry_sdk.Client(**options)


def drain(client: BaseClient, timeout: float) -> bool:
    """Wait at most ``timeout`` seconds (plus 0.1) for captured events to be sent; never raises.

    Returns whether all were sent.
    """
    if _idle(client):
        return True
    flushed = _run_with_timeout(lambda: client.flush(timeout=timeout), timeout + _GRACE)
    return flushed and _compat.pending(_sender(client)) == 0


def shut(client: BaseClient, timeout: float) -> bool:
    """Drain a client, close it, and wait for its thread to end, all within ``timeout`` seconds."""
    end = time.monotonic() + timeout + _GRACE
    drained = drain(client, timeout)
    sender = _compat.sender_thread(_sender(client))
    closed = _run_with_timeout(lambda: client.close(timeout=0), max(_GRACE, end - time.monotonic()))
    if sender is not None:
        sender.join(max(0.0, end - time.monotonic()))
    return drained and closed


def retire(transport: Transport) -> None:
    """Have Sentry's own transport send its queue and end its thread, without waiting."""
    transport.kill()


def renew(client: BaseClient) -> None:
    """Give a client in a forked child a transport, queues and locks of its own.

    It does not use the parent's socket, does not send the parent's queue again, and does not wait
    for a lock that another thread of the parent held at the fork. It starts no thread before
    something is captured. A transport that the user has configured stays as it is.
    """
    if (
        not isinstance(client.transport, RelayTransport)
        and client.options.get("transport") is None
        and client.transport is not None
    ):
        client.transport = make_transport(client.options)
    if client.monitor is not None:
        client.monitor = Monitor(cast("Transport", client.transport))
    flusher: object = getattr(client, "session_flusher", None)
    if isinstance(flusher, SessionFlusher):
        cast("Any", client).session_flusher = SessionFlusher(capture_func=flusher.capture_func)
    for name in _BATCHERS:
        batcher: object = getattr(client, name, None)
        if batcher is not None:
            with suppress(AttributeError, TypeError):  # a release with another constructor
                setattr(client, name, _new_batcher(client, type(batcher)))


def _new_batcher(client: BaseClient, kind: Callable[..., object]) -> object:
    """Make a new batcher of logs, metrics or spans; the old one's lock may be held for ever."""

    def capture(envelope: Envelope) -> None:
        if client.transport is not None:
            client.transport.capture_envelope(envelope)

    def record_lost(*arguments: Any, **named: Any) -> None:  # noqa: ANN401  # as Sentry has them
        if client.transport is not None:
            client.transport.record_lost_event(*arguments, **named)

    given: dict[str, object] = {"capture_func": capture, "record_lost_func": record_lost}
    taken = inspect.signature(kind).parameters
    return kind(**{name: function for name, function in given.items() if name in taken})


@contextmanager
def _without_spotlights_django() -> Generator[None]:
    """Keep Sentry from importing Django for Spotlight, its tool for developers.

    The module is removed afterwards, so that another client imports it with Django.
    """
    spotlight = "sentry_sdk.spotlight"
    if not {"django.conf", spotlight}.isdisjoint(sys.modules) or "SENTRY_SPOTLIGHT" in os.environ:
        yield
        return
    with hidden_modules("django.conf"):
        yield
    sys.modules.pop(spotlight, None)


def _stock_integration() -> list[type[Integration]]:
    try:
        from sentry_sdk.integrations.celery import CeleryIntegration
    except DidNotEnable:
        return []
    return [CeleryIntegration]


def _run_with_timeout(action: Callable[[], object], seconds: float) -> bool:
    """Run a call of Sentry without a timeout on a thread; False if it takes longer or raises."""
    done: list[bool] = []

    def act() -> None:
        with suppress(Exception):
            action()
            done.append(True)

    run_with_timeout(seconds, act)
    return bool(done)


def _sender(client: BaseClient) -> Transport | None:
    """Return the transport that sends from this process; None if the relay sends."""
    transport = client.transport
    return transport.stock if isinstance(transport, RelayTransport) else transport


def _idle(client: BaseClient) -> bool:
    """Tell whether the client has nothing to send: a flush would start its thread to find out."""
    for name in (*_BATCHERS, "session_flusher"):
        gathered: Any = getattr(client, name, None)
        if gathered is not None:
            with suppress(Exception):  # if Sentry can't pass it on, a flush can't either
                gathered.flush()  # to the transport
    if isinstance(client.transport, RelayTransport):
        if client.transport.unavailable:
            return False
    elif not _compat.has_sender(client.transport):  # not Sentry's own transport, or none at all
        return client.transport is None
    sender = _sender(client)
    return _compat.sender_thread(sender) is None and _compat.pending(sender) == 0
