"""A session's log records: taken from ``logging``, and sent by the relay or by this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.sdk.resources import Resource

from taskobs.celery.active import current_run
from taskobs.celery.command_line import in_worker_command
from taskobs.config.settings import RELAY_ADDRESS, Settings
from taskobs.internal.timeouts import run_with_timeout
from taskobs.observers.base import Observer
from taskobs.observers.log_capture import LogCapture
from taskobs.otel.export.logs import DirectLogs, LogExporterFactory
from taskobs.otel.provider import TraceProvider
from taskobs.otel.resource import AppName, resource_of
from taskobs.otel.task_spans import shared_task_signals
from taskobs.protocol.frames import FrameKind

if TYPE_CHECKING:
    from taskobs.relay_client.client import RelayClient

_HAND_OVER_EVERY: Final = 1.0
"""Seconds between two looks at what a relay that is gone has left: each reads shared memory."""


class Logs:
    """Sends the records of this process: through a relay, if it is routed to one.

    ``traces`` returns the provider of the process's spans, whose resource the records share.

    Raises:
        MissingExtraError: the exporter of the protocol is not installed.
    """

    def __init__(
        self, settings: Settings, app_name: AppName, traces: Callable[[], TraceProvider | None]
    ) -> None:
        self.destination = settings.shown_logs_endpoint or ""
        self._settings, self._traces = settings, traces
        self._own_resource = resource_of(settings, app_name)
        self._direct = DirectLogs(LogExporterFactory(settings), self._resource)
        self._client: RelayClient | None = None
        self._looked_at = 0.0
        self._undo = ExitStack()

    def start(self) -> None:
        """Take records from now on."""
        if not (self._settings.relay and _may_have_relay()):
            self._direct.begin()
        signals = shared_task_signals()
        capture = LogCapture(current_run, self.put, signals.guard)
        self._undo.callback(capture.remove)
        capture.install()
        # Without an observer, no run would be followed, and the records would have no task.
        observer = Observer()
        self._undo.callback(signals.detach, observer)
        signals.attach(observer)

    def stop(self, timeout: float) -> None:
        """Take no more; send what waits, within ``timeout`` seconds."""
        self._undo.close()
        run_with_timeout(timeout, self._direct.shutdown)

    def put(self, payload: bytes) -> None:
        """Send a packed record; never waits."""
        client = self._client
        if client is None:
            self._direct.put(payload)
            return
        if not client.unavailable:
            client.send(FrameKind.LOG, payload)
        else:
            self._direct.put(payload)
        if client.unavailable and time.monotonic() - self._looked_at > _HAND_OVER_EVERY:
            self._hand_over(client)

    def route_to(self, client: RelayClient) -> None:
        """Send through a relay from now on, also what waits."""
        if self._client is client:
            return
        self._client = client
        for payload in self._direct.take():
            self.put(payload)

    def restore(self) -> None:
        """Send from this process again."""
        client, self._client = self._client, None
        if client is not None:
            self._hand_over(client)

    def role_is_known(self) -> None:
        """Handle that this process is a worker, a pool child or beat, and may have got a relay."""
        if self._client is None:
            self._direct.begin()

    def flushes(self, *, relayed: bool) -> list[Callable[[], object]]:
        """Return the calls that send what this process has to send itself; each may block."""
        if relayed:
            return []
        if self._client is not None:
            self._hand_over(self._client)
        return [self._direct.flush]

    def _hand_over(self, client: RelayClient) -> None:
        """Send what a relay, which is gone, may not have read."""
        self._looked_at = time.monotonic()
        self._direct.begin(now=False)
        for payload in client.undelivered(FrameKind.LOG):
            self._direct.put(payload)

    def resource(self) -> dict[str, object]:
        """Return the resource of the records, as the relay needs it: that of the spans, if any."""
        traces = self._traces()
        found = traces.resource() if traces is not None else {}
        own = self._own_resource
        return found or {"resource": dict(own.attributes), "schema_url": own.schema_url}

    def _resource(self) -> Resource:
        found = self.resource()
        attributes = cast("Mapping[str, Any]", found["resource"])
        return Resource(attributes, str(found.get("schema_url") or ""))


def _may_have_relay() -> bool:
    """Tell whether this process is about to become a worker, or a child that a worker spawned."""
    of_worker, _, _ = os.environ.get(RELAY_ADDRESS, "").partition(":")
    return in_worker_command() or of_worker == str(os.getppid())
