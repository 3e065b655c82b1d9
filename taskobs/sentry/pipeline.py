"""Sentry in one process: the client in use, our hooks in it, and where its envelopes go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import sentry_sdk
from sentry_sdk.client import BaseClient
from sentry_sdk.integrations import Integration
from sentry_sdk.scope import Scope
from sentry_sdk.transport import Transport
from sentry_sdk.types import Event, Hint

from taskobs import semconv
from taskobs.celery.active import current_run
from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.internal.guard import Guard
from taskobs.internal.private_names import warn_of_missing
from taskobs.internal.wrapping import Patches
from taskobs.observers import outer_trace
from taskobs.observers.context import state as context_state
from taskobs.observers.context import values as context_values
from taskobs.observers.sentry import redact
from taskobs.observers.sentry.context_tags import add_context
from taskobs.observers.sentry.plain_parts import serialize_event
from taskobs.observers.sentry.reported import exception_of
from taskobs.relay_client.client import RelayClient
from taskobs.sentry import _compat, trace_ids
from taskobs.sentry.client import SentrySettings, drain, make_client, renew, retire, shut
from taskobs.sentry.duplicates import is_duplicate
from taskobs.sentry.integrations import Integrations
from taskobs.sentry.outgoing import OutgoingEnvelopes
from taskobs.sentry.relay_transport import RelayTransport
from taskobs.sentry.send_outage import SendOutages
from taskobs.sentry.sentry_logs import LogFilter
from taskobs.sentry.thread_context import ThreadContextPatch

logger = logging.getLogger("taskobs")

STOCK_INTEGRATION: Final = "celery"
_REDIS_INTEGRATION: Final = "redis"
IGNORED_LOGGERS: Final = (
    "celery.app.trace",
    "celery.redirected",
    "celery.worker.job",
    "celery.worker.request",
    "opentelemetry.*",
    "taskobs",
    "taskobs.*",
)
"""Loggers whose records repeat that a run failed, or say that a collector does not respond, which
is no error of the app. ``duplicates`` recognises such records of other loggers."""

_HAVE_CONTEXT: Final = (None, "error", "transaction")
"""The types of what has tags; an error has none, or in Sentry's protocol ``error``."""

Suppressed = Callable[[Mapping[str, object], Mapping[str, Any]], bool]


class SentryPipeline:
    """Sends the events of this process through the app's client, or through one of our own.

    Made by ``start``; ``close`` undoes everything. Thread-safe.
    """

    def __init__(
        self,
        *,
        send_arguments: bool = False,
        own: BaseClient | None = None,
        repeats: Callable[[logging.LogRecord], bool] = lambda _: False,
    ) -> None:
        self._repeats = repeats
        self._send_arguments = send_arguments
        self._own = own
        self._client: BaseClient | None = None
        self._routed: dict[BaseClient, Transport] = {}
        self._relay: tuple[RelayClient, Guard] | None = None
        self._integrations: Integrations | None = None
        self._ignores_broker = False
        self._redis_disabled: WeakKeyDictionary[BaseClient, Integration] = WeakKeyDictionary()
        self._set_aside: WeakKeyDictionary[BaseClient, Integration] = WeakKeyDictionary()
        self._silenced: list[str] = []
        self._suppressed: list[Suppressed] = []
        self._outgoing = OutgoingEnvelopes()
        self._logs = LogFilter(send_arguments=send_arguments)
        self._request_trace = trace_ids.RequestTrace()
        self._thread_context = ThreadContextPatch()
        self._serializer = Patches()
        self._send_outages = SendOutages()
        self._closed = False
        self._lock = Lock()

    @classmethod
    def start(
        cls,
        settings: SentrySettings,
        repeats: Callable[[logging.LogRecord], bool] = lambda _: False,
    ) -> SentryPipeline:
        """Adopt Sentry's current client, or initialise one if there is a DSN.

        With neither, nothing is sent until the app calls ``sentry_sdk.init()``, at any later
        time. ``repeats`` tells whether a log record's error was reported already. Raises
        ``sentry_sdk.utils.BadDsn`` for an invalid DSN.
        """
        warn_of_missing(_compat.NAMES)
        own = None
        if settings.sentry_dsn and not sentry_sdk.get_client().is_active():
            own = make_client(settings)
            sentry_sdk.get_global_scope().set_client(own)
        pipeline = cls(send_arguments=settings.send_arguments, own=own, repeats=repeats)
        pipeline._install()
        forksafe.add(pipeline, ForkStep.EXPORT)
        pipeline._integrate()
        return pipeline

    def _integrate(self) -> None:
        if self._own is not None:
            self._integrations = Integrations(self._own, self._integration_came)
            self._integrations.enable()

    def _integration_came(self) -> None:
        if self._ignores_broker:
            self.ignore_broker_commands()

    def client(self) -> BaseClient | None:
        """Return the client in use, adopting one that the app has initialised since; or None.

        Cheap where nothing has changed: hot paths call it.
        """
        client = Scope.get_client()
        if self._closed or not client.is_active():
            return None
        if client is not self._client:
            self._adopt(client)
        return client

    def suppress(self, suppressed: Suppressed) -> None:
        """Drop the events outside of runs for which this function returns true."""
        self._suppressed.append(suppressed)

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for events to be sent; False if some were not."""
        end = time.monotonic() + timeout
        left = [drain(client, max(0.0, end - time.monotonic())) for client in self._clients()]
        return all(left)

    def close(self, timeout: float) -> None:
        """Flush within ``timeout`` seconds, then undo what ``start`` and ``client`` did."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        forksafe.remove(self)
        end = time.monotonic() + timeout
        for client in self._clients():
            if client is not self._own:
                drain(client, max(0.0, end - time.monotonic()))
        self.restore()
        self._uninstall()
        if self._own is not None:
            shut(self._own, max(0.0, end - time.monotonic()))
        self._send_outages.remove()  # last, as it watches what `shut` sends
        self._own = self._client = None

    def route_to(self, relay: RelayClient, guard: Guard) -> None:
        """Send envelopes to a relay; a client whose transport the user configured keeps it."""
        self._relay = relay, guard
        for client in self._clients():
            self._route_to_relay(client)

    def restore(self) -> None:
        """Let the clients send their own envelopes again."""
        self._relay = None
        for client, stock in self._routed.items():
            if isinstance(client.transport, RelayTransport):
                client.transport.kill()
                client.transport = stock
        self._routed.clear()

    def _route_to_relay(self, client: BaseClient) -> None:
        stock = client.transport
        if self._relay is None or stock is None or isinstance(stock, RelayTransport):
            return
        if client.options.get("transport") is None:
            self._routed[client] = stock
            client.transport = RelayTransport(self._relay[0], client.options, guard=self._relay[1])
            self._prepare_envelopes(client)
            retire(stock)

    def _prepare_envelopes(self, client: BaseClient) -> None:
        transport = client.transport
        # A RelayTransport can be called in a finalizer; other transports may hold a lock then.
        self._outgoing.install(transport, soon=isinstance(transport, RelayTransport))

    def ignore_broker_commands(self) -> None:
        """Disable Sentry's Redis integration in this process, whose commands are the broker's.

        Recording each of them takes a tenth of a worker's time. Forked children, which run the
        tasks, enable it again.
        """
        self._ignores_broker = True
        for client in self._clients():
            redis = client.integrations.pop(_REDIS_INTEGRATION, None)
            if redis is not None:
                self._redis_disabled[client] = redis

    def _enable_redis(self) -> None:
        for client, redis in list(self._redis_disabled.items()):
            client.integrations.setdefault(_REDIS_INTEGRATION, redis)
        self._redis_disabled.clear()
        self._ignores_broker = False

    def after_fork(self) -> None:
        """Make the clients of a forked child independent of its parent's."""
        self._lock = Lock()  # another thread of the parent may have held it at the fork
        self._enable_redis()
        self._send_outages.after_fork()
        for client in self._clients():
            renew(client)
            self._prepare_envelopes(client)
        # The parent's trace must not continue in this process.
        sentry_sdk.get_isolation_scope().set_new_propagation_context()
        self._request_trace.renew()

    def _clients(self) -> list[BaseClient]:
        current = sentry_sdk.get_client()
        found = [self._own, self._client, current if current.is_active() else None]
        return list(dict.fromkeys(client for client in found if client is not None))

    def _adopt(self, client: BaseClient) -> None:
        with self._lock:
            # Every patch of Sentry's integration looks it up in the client first, and does nothing
            # if it isn't there: seen in 2.45 to 2.75.
            stock = client.integrations.pop(STOCK_INTEGRATION, None)
            if stock is not None:
                self._set_aside[client] = stock
            self._client = client
            self._logs.install(client)
        self._prepare_envelopes(client)
        self._route_to_relay(client)
        if stock is None:
            return
        logger.info("taskobs reports task errors to Sentry; its CeleryIntegration is set aside")
        if getattr(stock, "monitor_beat_tasks", False):
            logger.warning(
                "Sentry's CeleryIntegration(monitor_beat_tasks=True) is set aside by taskobs: "
                "its check-ins for beat's entries stop; taskobs.init(crons=True) sends them"
            )

    def _install(self) -> None:
        self._silenced = _compat.silence(IGNORED_LOGGERS)
        sentry_sdk.get_global_scope().add_event_processor(self._process)
        outer_trace.sources.append(self._request_trace.ids)
        self._thread_context.install()
        _compat.replace_serializer(self._serializer, serialize_event)
        self._send_outages.install()
        self.client()

    def _uninstall(self) -> None:
        if self._integrations is not None:
            self._integrations.stop()
        self._enable_redis()
        for client, stock in list(self._set_aside.items()):
            client.integrations.setdefault(STOCK_INTEGRATION, stock)
        self._set_aside.clear()
        if self._request_trace.ids in outer_trace.sources:
            outer_trace.sources.remove(self._request_trace.ids)
        self._thread_context.remove()
        self._serializer.remove()
        self._logs.remove()
        self._outgoing.remove()
        _compat.unsilence(self._silenced)
        everywhere = sentry_sdk.get_global_scope()
        _compat.remove_event_processor(everywhere, self._process)
        if self._own is not None and everywhere.client is self._own:
            everywhere.set_client(None)

    def _process(self, event: Event, hint: Hint) -> Event | None:
        """Process every event, in runs and outside of them; None drops it."""
        if self._closed:
            return event
        fields = cast("dict[str, object]", event)
        if self._is_reported(fields, hint):
            return None
        fields["extra"] = _Extra(redact.table(fields.get("extra")))
        if not self._send_arguments:
            redact.drop_variables(fields, everywhere=False)
            redact.drop_arguments(fields)
        if context_state.in_use and fields.get("type") in _HAVE_CONTEXT:
            values = context_values.values_at(exception_of(hint), current_run())
            add_context(fields, values)
        trace_ids.link(fields, exception_of(hint))
        return event

    def _is_reported(self, event: Mapping[str, object], hint: Mapping[str, Any]) -> bool:
        record = hint.get("log_record")
        if isinstance(record, logging.LogRecord) and self._repeats(record):
            return True
        return is_duplicate(event, hint) or any(
            suppressed(event, hint) for suppressed in self._suppressed
        )


class _Extra(dict[str, object]):
    """An event's ``extra`` in which Sentry's CeleryIntegration can't set a run's arguments.

    In a run that began before the integration was removed, its event processor still does so,
    and it is called after all of ours.
    """

    def __setitem__(self, key: str, value: object) -> None:
        if key != semconv.SENTRY_JOB:
            super().__setitem__(key, value)
