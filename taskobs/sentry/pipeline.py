"""The Sentry side of a process: whose client it is, and what is laid over it for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock
from typing import Final, cast
from weakref import WeakKeyDictionary

import sentry_sdk
from opentelemetry import trace
from sentry_sdk import scope as sentry_scope
from sentry_sdk.client import BaseClient
from sentry_sdk.integrations import Integration
from sentry_sdk.integrations import logging as sentry_logging
from sentry_sdk.transport import Transport
from sentry_sdk.types import Event, Hint

from taskobs.internal.guard import Guard
from taskobs.observers import redact
from taskobs.relay_client.client import RelayClient
from taskobs.sentry.client import SentrySettings, drain, make_client, renew, retire, shut
from taskobs.sentry.integrations import Integrations
from taskobs.sentry.relay_transport import RelayTransport

logger = logging.getLogger("taskobs")

STOCK_INTEGRATION: Final = "celery"
_STOCK_JOB: Final = "celery-job"
_REDIS_INTEGRATION: Final = "redis"
IGNORED_LOGGERS: Final = (
    "celery.app.trace",
    "celery.redirected",
    "celery.worker.job",
    "celery.worker.request",
    "opentelemetry.*",
    "taskobs",
)
"""Loggers that tell of a failed run in other words, so that each failure would come twice or
more, or of a collector that doesn't answer, which is no error of the app."""

_TOLD_OTHERWISE: Final = {
    "multiprocessing": ("exited with",),
    "celery.worker.consumer.consumer": (
        "Received unregistered task",
        "Received invalid task",
        "Can't decode message",
        "Received and deleted unknown message",
    ),
}
"""What Celery and billiard log of runs and messages that are reported with their tags."""
_CHORD_FAILED: Final = "Chord %r raised: %r"
_CHORD_BROKE: Final = frozenset({"TimeoutError", "OperationalError"})
"""What breaks a chord itself; whatever else Celery logs of one is a header task's failure."""


class SentryPipeline:
    """Carries events out of this process, through the user's client or one of our own.

    Made by ``start``; ``close`` changes everything back. Thread-safe.
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
        self._not_here: WeakKeyDictionary[BaseClient, Integration] = WeakKeyDictionary()
        self._set_aside: WeakKeyDictionary[BaseClient, Integration] = WeakKeyDictionary()
        self._silenced: list[str] = []
        self._linked = False
        self._closed = False
        self._lock = Lock()

    @classmethod
    def start(
        cls,
        settings: SentrySettings,
        repeats: Callable[[logging.LogRecord], bool] = lambda _: False,
    ) -> SentryPipeline:
        """Adopt the client that Sentry has, or initialise one if there is a DSN.

        ``repeats`` tells of a log record whether its trouble was reported already.
        With neither, nothing is sent until the app calls ``sentry_sdk.init()``, which may be at
        any later time. Raises ``sentry_sdk.utils.BadDsn`` for a DSN that is none.
        """
        own = None
        if settings.sentry_dsn and not sentry_sdk.get_client().is_active():
            own = make_client(settings)
            sentry_sdk.get_global_scope().set_client(own)
        pipeline = cls(send_arguments=settings.send_arguments, own=own, repeats=repeats)
        pipeline._install()
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
        """Return the client in use, adopting one that the app has initialised meanwhile.

        None when there is none; that, and finding the same client again, cost next to nothing.
        """
        client = sentry_sdk.get_client()
        if self._closed or not client.is_active():
            return None
        if client is not self._client:
            self._adopt(client)
        return client

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for events to leave; False if some are left behind."""
        end = time.monotonic() + timeout
        left = [drain(client, max(0.0, end - time.monotonic())) for client in self._clients()]
        return all(left)

    def close(self, timeout: float) -> None:
        """Flush within ``timeout`` seconds, then undo what ``start`` and ``client`` did."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        end = time.monotonic() + timeout
        for client in self._clients():
            if client is not self._own:
                drain(client, max(0.0, end - time.monotonic()))
        self.restore()
        self._uninstall()
        if self._own is not None:
            shut(self._own, max(0.0, end - time.monotonic()))
        self._own = self._client = None

    def route_to(self, relay: RelayClient, guard: Guard) -> None:
        """Hand what is sent to a relay; a client with a transport of the user's own keeps it."""
        self._relay = relay, guard
        for client in self._clients():
            self._route_to_relay(client)

    def restore(self) -> None:
        """Let the clients send from this process again."""
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
            retire(stock)

    def ignore_broker_commands(self) -> None:
        """Have Sentry take no note of this process's Redis commands: they are the broker's.

        It costs a worker a tenth of its time to note each. Forked children, which run the tasks,
        have it back.
        """
        self._ignores_broker = True
        for client in self._clients():
            redis = client.integrations.pop(_REDIS_INTEGRATION, None)
            if redis is not None:
                self._not_here[client] = redis

    def _mind_redis(self) -> None:
        for client, redis in list(self._not_here.items()):
            client.integrations.setdefault(_REDIS_INTEGRATION, redis)
        self._not_here.clear()
        self._ignores_broker = False

    def after_fork(self) -> None:
        """Make the clients of a forked child independent of its parent's."""
        self._lock = Lock()  # another thread may have held it at the fork
        self._mind_redis()
        for client in self._clients():
            renew(client)

    def _clients(self) -> list[BaseClient]:
        current = sentry_sdk.get_client()
        found = [self._own, self._client, current if current.is_active() else None]
        return list(dict.fromkeys(client for client in found if client is not None))

    def _adopt(self, client: BaseClient) -> None:
        with self._lock:
            # Every hook of the stock integration asks the client for it first, and falls
            # through if it is not there.
            stock = client.integrations.pop(STOCK_INTEGRATION, None)
            if stock is not None:
                self._set_aside[client] = stock
            self._client = client
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
        ignored = _ignored_loggers()
        self._silenced = [name for name in IGNORED_LOGGERS if name not in ignored]
        for name in self._silenced:
            ignored.add(name)
        register = getattr(sentry_scope, "register_external_propagation_context", None)
        if register is not None and _slot() in (None, span_address):
            register(span_address)
            self._linked = True
        sentry_sdk.get_global_scope().add_event_processor(self._process)
        self.client()

    def _uninstall(self) -> None:
        if self._integrations is not None:
            self._integrations.stop()
        self._mind_redis()
        for client, stock in list(self._set_aside.items()):
            client.integrations.setdefault(STOCK_INTEGRATION, stock)
        self._set_aside.clear()
        for name in self._silenced:
            _ignored_loggers().discard(name)
        if self._linked and _slot() is span_address:
            sentry_scope.remove_external_propagation_context()
        everywhere = sentry_sdk.get_global_scope()
        processors: list[object] = getattr(everywhere, "_event_processors", [])
        if self._process in processors:
            processors.remove(self._process)
        if self._own is not None and everywhere.client is self._own:
            everywhere.set_client(None)

    def _process(self, event: Event, hint: Hint) -> Event | None:
        """Look at every event of this process, in runs and outside of them."""
        told = cast("dict[str, object]", event)
        record = hint.get("log_record")
        again = isinstance(record, logging.LogRecord) and self._repeats(record)
        if again or _is_told_otherwise(told):
            return None
        told["extra"] = _Extra(redact.table(told.get("extra")))
        if not self._send_arguments:
            redact.drop_celery_crumbs(told)
            redact.drop_celery_message(told)
        if not hasattr(sentry_scope, "register_external_propagation_context"):
            _link(told)
        return event


class _Extra(dict[str, object]):
    """An event's ``extra``, to which Sentry's CeleryIntegration can't add a run's arguments.

    It does so, after all processors of ours, in runs that have begun before it was set aside.
    """

    def __setitem__(self, key: str, value: object) -> None:
        if key != _STOCK_JOB:
            super().__setitem__(key, value)


def span_address() -> tuple[str, str] | None:
    """Return the trace id and the span id of OpenTelemetry's current span, if there is one."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


def _slot() -> object:
    return getattr(sentry_scope, "_external_propagation_context_fn", None)


def _ignored_loggers() -> set[str]:
    """Return Sentry's own set; in 3.x ``ignore_logger`` means another one."""
    old: set[str] = getattr(sentry_logging, "_IGNORED_LOGGERS", set[str]())
    return getattr(sentry_logging, "_IGNORED_LOGGERS_EVENTS", old)


def _link(event: dict[str, object]) -> None:
    """Do what the slot for other tracers does, for releases of Sentry that lack it."""
    address = span_address()
    if address is None or event.get("type") == "transaction" or sentry_sdk.get_current_span():
        return
    contexts = redact.table(event.setdefault("contexts", {}))
    if "op" not in redact.table(contexts.get("trace")):  # one of our own has it
        contexts["trace"] = {"trace_id": address[0], "span_id": address[1]}


def _is_told_otherwise(event: dict[str, object]) -> bool:
    message = str(redact.table(event.get("logentry")).get("message"))
    if message == _CHORD_FAILED:
        raised = redact.rows(redact.table(event.get("exception")).get("values"))
        return not any(error.get("type") in _CHORD_BROKE for error in raised[-1:])
    return any(words in message for words in _TOLD_OTHERWISE.get(str(event.get("logger")), ()))
