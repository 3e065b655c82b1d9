"""The one publish of ``celery call``, without OpenTelemetry's SDK and without Sentry.

Both take a third of the time that the command takes. Its span is made of plain values
(``taskobs.otel.export.plain_span``) and sent in one request when the command has ended. The full
set-up makes the span again, with the same ids, if there is one before that, or if the span can't be
sent so.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from threading import current_thread, main_thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from celery import signals

from taskobs import semconv
from taskobs.celery.adapter import brokers, publishes
from taskobs.celery.command_line import command
from taskobs.config.settings import Settings
from taskobs.internal.guard import Guard
from taskobs.internal.timeouts import run_with_timeout
from taskobs.observers.attributes import encodable, of_message, of_publish
from taskobs.observers.context import state as context_state
from taskobs.otel.export.otlp_post import post, suits
from taskobs.otel.export.plain_span import PlainSpan, is_known

if TYPE_CHECKING:
    from taskobs.celery._types import App
    from taskobs.model import Publish

_log: Final = logging.getLogger("taskobs")
_UID: Final = "taskobs.command_publish"
_COMMAND: Final = "call"
_CELERYS: Final = "celery."
"""What Celery's own tasks are called: some have no span, some are named after another task."""
_API: Final = "opentelemetry"
_UNDERSTOOD: Final = frozenset(
    {
        "OTEL_SERVICE_NAME",
        *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        *("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
        *("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
        *("OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"),  # which are not for spans
    }
)
"""The variables of OpenTelemetry that are heeded here; any other one is left to the SDK."""
_HEEDED: Final = frozenset(
    {
        *("service_name", "environment", "release", "stock_attributes", "sentry_dsn"),
        *(
            "otlp_endpoint",
            "otlp_protocol",
            "otlp_headers",
            "shutdown_timeout",
            "strict",
            "enabled",
        ),
        # Not for a publish:
        *("send_arguments", "crons", "log_ids", "relay", "relay_providers", "gc_freeze"),
    }
)
"""The settings that are heeded here, likewise."""
_GIVEN: Final = frozenset({"headers", "connection", "producer", "publisher"})
"""Arguments of a publish that Celery's command never gives."""
_WATCHES: Final = (signals.before_task_publish, signals.after_task_publish)
"""The app's receivers of these may look for the publish's span."""


def is_possible(settings: Settings, app: App, task: str, options: Mapping[str, Any]) -> bool:
    """Tell whether the span of this publish can be made here as the SDK would make it."""
    return (
        command() == _COMMAND
        and current_thread() is main_thread()
        and _API not in sys.modules  # else a span may be current, or baggage
        and _is_plain(settings)
        and not task.startswith(_CELERYS)
        and _GIVEN.isdisjoint(options)
        and not any(_has_receivers(signal) for signal in _WATCHES)
        and not _log.hasHandlers()  # else where telemetry goes is logged, and ids on each record
        and not context_state.in_use  # which the span and the message have
        and not brokers.varies(app)
        and is_known()
    )


def _is_plain(settings: Settings) -> bool:
    """Tell whether nothing is asked for that only the SDK does."""
    asked = {name for name, value in os.environ.items() if value and name.startswith("OTEL_")}
    given = {name for name, source in settings.given.items() if source != "default"}
    return (
        asked <= _UNDERSTOOD
        and given <= _HEEDED
        and settings.traces
        and settings.otlp
        and settings.otlp_protocol == "http/protobuf"
        and suits(settings.traces_endpoint or "")
    )


def _has_receivers(signal: Any) -> bool:  # noqa: ANN401  # Celery's have no types
    return any(not str(key[0]).startswith("taskobs.") for key, _ in signal.receivers or ())


class CommandPublish:
    """A publish, from its start until its span is sent: one ``with`` block around the send.

    ``begin`` makes the full set-up, which calls ``repeat``.
    """

    def __init__(
        self,
        settings: Settings,
        app_name: Callable[[], str | None],
        begin: Callable[[], object],
        app: App,
        publish: Publish,
    ) -> None:
        self._settings = settings
        self._app_name = app_name
        self._begin = begin
        self._guard = Guard(strict=settings.strict)
        self._publish = publish
        self._app = app
        self._pid = os.getpid()
        self._is_sent = self._is_live = False
        name = semconv.PUBLISH_SPAN + encodable(publish.name)
        self._span = PlainSpan(name, of_publish(publish))

    def __enter__(self) -> None:
        signals.before_task_publish.connect(self._routed, weak=False, dispatch_uid=_UID)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signals.before_task_publish.disconnect(dispatch_uid=_UID)
        with self._guard:
            self._span.end()
            self._publish.error = error
            if error is not None:
                self._begin()
            if self._is_live:
                self.repeat()

    def _routed(self, *, sender: str, **message: Any) -> None:  # noqa: ANN401  # as Celery sends it
        """Describe the span, now that the message is routed, and write the headers."""
        publish, span = self._publish, self._span
        if sender != publish.task or publish.task_id:
            return  # a router of the app's publishes, too
        with self._guard:
            publishes.complete(publish, self._app, message)
            span.name = semconv.PUBLISH_SPAN + encodable(publish.name)
            span.attributes |= of_message(publish, stock=self._settings.stock_attributes)
            publish.headers[semconv.HEADER_PUBLISHED_AT] = f"{time.time():.6f}"
            publish.headers["traceparent"] = span.traceparent
            if self._settings.errors:
                publish.headers[semconv.HEADER_SENTRY_TRACE] = f"{span.trace_id}-{span.span_id}"

    @property
    def _is_pending(self) -> bool:
        """Whether the span has ended in this process, which is not a fork, and is not sent."""
        return bool(self._span.end_time) and not self._is_sent and self._pid == os.getpid()

    def send(self, timeout: float) -> bool:
        """Send the span if it is pending, once; tell whether that needs no full set-up."""
        if not self._is_pending:
            return True
        accepted: list[bool] = []
        run_with_timeout(timeout, lambda: accepted.append(self._is_accepted(timeout)))
        self._is_sent = accepted == [True]
        return self._is_sent

    def _is_accepted(self, timeout: float) -> bool:
        try:
            body = self._span.encode(self._settings, self._app_name())
            headers = self._settings.otlp_headers or {}
            return post(self._settings.traces_endpoint or "", headers, body, timeout)
        except (OSError, TypeError, ValueError) as error:
            from taskobs.internal.causes import describe

            _log.debug(
                "taskobs: the span goes through OpenTelemetry's exporter: %s", describe(error)
            )
            return False

    def repeat(self) -> None:
        """Make the span again, now that there is a full set-up."""
        self._is_live = True
        if self._is_pending:
            self._is_sent = True
            self._span.repeat(self._publish.error)
