"""The pipeline `relay`: a worker's process hands its telemetry to the worker's relay process."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskobs.config.settings import RELAY_ADDRESS, Settings
from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.internal.guard import Guard
from taskobs.otel.provider import TraceProvider
from taskobs.protocol.frames import FrameError
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay_client import socket_directory, status
from taskobs.relay_client.client import RelayClient
from taskobs.relay_client.launcher import Launcher

if TYPE_CHECKING:
    from taskobs.sentry.pipeline import SentryPipeline
    from taskobs.session.logs import Logs

_log: Final = logging.getLogger("taskobs")
_HAND_OVER_TIMEOUT: Final = 1.0
"""Seconds that a pool child may take to write its pending frames."""
_FIRST_POLL: Final = 0.25
"""Seconds before a stop first checks that the relay is alive; the interval doubles each time."""
_GRACE: Final = 10.0
"""Seconds that the relay may spend on sending its backlog, once its worker has ended."""
_STATUS_TIMEOUT: Final = 0.5
_CLOSE_TIMEOUT: Final = 0.2


class RelayPipeline:
    """Hands the spans, errors, log records and counts of this process to the relay of its worker.

    Made by ``launch`` in the worker, by ``join`` in a child that was spawned; forked children
    inherit it. ``close`` puts the direct pipeline back.
    """

    def __init__(
        self,
        address: str,
        worker: str,
        role: Callable[[], str],
        memory: SharedMemory | None,
        launcher: Launcher | None = None,
    ) -> None:
        is_main_process = launcher is not None
        self.client = RelayClient(
            address, self._hello, memory=memory, is_main_process=is_main_process
        )
        self._memory = memory
        self._worker = worker
        self._role = role
        self._launcher = launcher
        self._traces: TraceProvider | None = None
        self._sentry: SentryPipeline | None = None
        self._logs: Logs | None = None
        forksafe.add(self, ForkStep.EXPORT)

    @classmethod
    def launch(
        cls,
        settings: Settings,
        worker: str,
        role: Callable[[], str],
        *,
        ours: bool,
        of_worker: Mapping[str, object] | None = None,
    ) -> RelayPipeline | None:
        """Start a relay for this worker, without waiting for it; None if it can't be started.

        ``ours`` says that spans go where the settings say, not to a provider of the user's;
        ``of_worker`` has more of the relay's settings, which depend on the worker.
        """
        configuration = {**_configuration(settings, worker, ours=ours), **(of_worker or {})}
        launcher = Launcher(configuration, warn=_warn)
        if not launcher.start():
            return None
        made = cls(launcher.address, worker, role, launcher.memory, launcher)
        _publish(launcher)
        return made

    @classmethod
    def join(cls, role: Callable[[], str]) -> RelayPipeline | None:
        """Find the relay of the worker that spawned this process; None if it has none."""
        pid, shared, address = [*os.environ.get(RELAY_ADDRESS, "").split(":", 2), "", ""][:3]
        if pid != str(os.getppid()) or not address:
            return None
        memory = SharedMemory.of(int(pid), int(shared)) if shared.isdecimal() else None
        return cls(address, "", role, memory)

    def carry(
        self,
        traces: TraceProvider | None,
        sentry: SentryPipeline | None,
        guard: Guard,
        logs: Logs | None = None,
    ) -> None:
        """Route what this process records to the relay; call it again when a source is added.

        The worker connects only now, as the first frame contains the spans' resource.
        """
        if traces is not None and self._traces is not traces:
            self._traces = traces  # the app may have replaced our provider
            traces.route_to(self.client, guard)
        if sentry is not None and self._sentry is None:
            self._sentry = sentry
            sentry.route_to(self.client, guard)
        if logs is not None:
            self._logs = logs
            logs.route_to(self.client)
        if self._launcher is not None:
            self.client.open()

    @property
    def unavailable(self) -> bool:
        """Whether the relay was given up, so that each process sends its own telemetry."""
        return self.client.unavailable

    @property
    def memory(self) -> SharedMemory | None:
        """What the relay shares with this process; None if there is no such memory."""
        return self._memory

    @property
    def relay_pid(self) -> int | None:
        """The relay's process id, in the process that started it; None elsewhere."""
        return self._launcher.pid if self._launcher else None

    def poll(self) -> None:
        """Restart the relay if it has died; call it once a second in the worker. Never blocks."""
        if self._launcher is not None:
            self._launcher.poll()
            if self._launcher.alive:
                _publish(self._launcher)
            self.client.open()  # connects to a relay that was restarted, and sends it all again

    def after_fork(self) -> None:
        """In a forked child: use the parent's relay, without managing its process."""
        self._launcher = None

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until the relay has sent all that it received.

        Also True without a relay: the direct pipeline then sends what the relay didn't receive.
        """
        return self.client.flush(timeout) or self.unavailable

    def end(self, timeout: float) -> bool:
        """Write pending frames; in the worker, also wait until they are sent and the relay ends."""
        if self._launcher is None:
            return (
                self.client.close_gracefully(min(timeout, _HAND_OVER_TIMEOUT)) or self.unavailable
            )
        if self.client.closed:  # a cold stop runs the exit hooks twice, as nothing else closes it
            return not self.client.waiting
        end = time.monotonic() + timeout
        self.client.send_metrics(last=True)
        done = self._flushed(self._launcher, end)
        if not done and not self.unavailable:
            _log_unsent(self._launcher.address)
        # Also when no time is left: SIGHUP makes a worker execute itself anew under the same
        # process id. Without CLOSE, its old relay would take it for alive and never end.
        self.client.close_gracefully(max(_CLOSE_TIMEOUT, end - time.monotonic()))
        self._launcher.close()
        self._launcher.wait(max(0.0, end - time.monotonic()))
        return done

    def _flushed(self, launcher: Launcher, end: float) -> bool:
        """Wait until ``end`` for all to be sent; if the relay dies, its successor sends it."""
        pause = _FIRST_POLL
        while True:
            launcher.poll()
            left = max(0.0, end - time.monotonic())
            if self.flush(min(left, pause)):
                return True
            if left <= pause:
                return False
            pause *= 2  # each flush is one more request, and the relay limits those that wait

    def close(self) -> None:
        """Let this process send its own telemetry again."""
        for carried in (self._traces, self._sentry, self._logs):
            if carried is not None:
                carried.restore()
        self._traces = self._sentry = self._logs = None
        self.client.close()
        if self._memory is not None:
            self._memory.close()
        if self._launcher is not None:
            self._launcher.close()
            with suppress(KeyError):
                del os.environ[RELAY_ADDRESS]

    def _hello(self) -> dict[str, object]:
        source = self._logs or self._traces  # those of logs are the spans', where there are any
        resource = source.resource() if source else {}
        process = {"role": self._role(), "name": self._worker}
        return {**process, "resource": {}, "schema_url": "", **resource}


def _publish(launcher: Launcher) -> None:
    """Set the variable from which spawned children read the relay's address."""
    shared = launcher.memory.descriptor if launcher.memory else ""
    os.environ[RELAY_ADDRESS] = f"{os.getpid()}:{shared}:{launcher.address}"


def supported() -> bool:
    """Tell whether this platform supports a relay: it needs Unix sockets."""
    return socket_directory.SUPPORTED


def _log_unsent(address: str) -> None:
    """Log what the relay still has to send: it ends after this process."""
    with suppress(OSError, FrameError):  # it doesn't answer, or has ended
        waiting = status.waiting(status.ask(address, _STATUS_TIMEOUT))
        _log.warning(
            "taskobs: the relay has not sent %s; it continues for up to %.0f s", waiting, _GRACE
        )


def _warn(why: str) -> None:
    _log.warning("taskobs: there is no relay, so each process sends its own telemetry: %s", why)


def _configuration(settings: Settings, worker: str, *, ours: bool) -> dict[str, object]:
    """Return the relay's configuration; the relay reads ``OTEL_*`` variables itself."""
    exporter: dict[str, object] = {"protocol": settings.otlp_protocol}
    if ours and settings.given["otlp_endpoint"] == "argument":
        exporter["endpoint"] = settings.traces_endpoint
    if ours and settings.given["otlp_headers"] == "argument":
        exporter["headers"] = dict(settings.otlp_headers or {})
    logs: dict[str, object] | None = None
    if settings.logs_endpoint is not None:
        logs = {"protocol": settings.logs_protocol}
        if settings.given["otlp_endpoint"] == "argument":
            logs["endpoint"] = settings.logs_endpoint
        if settings.given["otlp_headers"] == "argument":
            logs["headers"] = dict(settings.otlp_headers or {})
    spool = None
    if settings.relay_spool is not None:
        spool = {
            "directory": str(Path(settings.relay_spool).absolute()),
            "bytes": settings.relay_spool_bytes,
            "age": settings.relay_spool_age,
        }
    keep = list(settings.keep or ())
    identity = {"worker": worker, "parent": os.getpid(), "grace": _GRACE}
    serve = None
    if settings.metrics_port is not None:
        serve = {"address": settings.metrics_address, "port": settings.metrics_port}
    more = {"logs": logs, "spool": spool, "keep": keep, "serve": serve}
    return {**identity, "exporter": exporter, **more}
