"""The pipeline `relay`: what a process of a worker does in place of sending by itself."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
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

_log: Final = logging.getLogger("taskobs")
_HAND_OVER_TIMEOUT: Final = 1.0
"""Seconds that a pool child may take to hand over what it has not written yet."""
_FIRST_POLL: Final = 0.25
"""Seconds into a stop after which it is looked whether the relay is alive; then later and later."""
_GRACE: Final = 10.0
"""Seconds that the relay may take to send what waits, once its worker has ended."""
_STATUS_TIMEOUT: Final = 0.5
_CLOSE_TIMEOUT: Final = 0.2


class RelayPipeline:
    """Hands the spans, errors and facts of this process to the relay of its worker.

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
        forksafe.add(self, ForkStep.EXPORT)

    @classmethod
    def launch(
        cls,
        settings: Settings,
        worker: str,
        role: Callable[[], str],
        *,
        ours: bool,
        log_level: object = None,
    ) -> RelayPipeline | None:
        """Start a relay for this worker, without waiting for it; None if that can't be.

        ``ours`` says that spans go where the settings say, not to a provider of the user's;
        ``log_level`` is the worker's.
        """
        configuration = _configuration(settings, worker, ours=ours)
        if isinstance(log_level, int):
            configuration["log_level"] = log_level
        launcher = Launcher(configuration, warn=_warn)
        if not launcher.start():
            return None
        made = cls(launcher.address, worker, role, launcher.memory, launcher)
        _publish(launcher)
        return made

    @classmethod
    def join(cls, role: Callable[[], str]) -> RelayPipeline | None:
        """Find the relay of the worker that has spawned this process; None without one."""
        pid, shared, address = [*os.environ.get(RELAY_ADDRESS, "").split(":", 2), "", ""][:3]
        if pid != str(os.getppid()) or not address:
            return None
        memory = SharedMemory.of(int(pid), int(shared)) if shared.isdecimal() else None
        return cls(address, "", role, memory)

    def carry(
        self, traces: TraceProvider | None, sentry: SentryPipeline | None, guard: Guard
    ) -> None:
        """Take over what this process records; call it again when there is more of it.

        Only now does the worker connect: what the relay is told first has the spans' resource.
        """
        if traces is not None and self._traces is not traces:
            self._traces = traces  # the app may have set one of its own in the place of ours
            traces.route_to(self.client, guard)
        if sentry is not None and self._sentry is None:
            self._sentry = sentry
            sentry.route_to(self.client, guard)
        if self._launcher is not None:
            self.client.open()

    @property
    def unavailable(self) -> bool:
        """Whether there is no relay any more, and each process sends what it has."""
        return self.client.unavailable

    @property
    def relay_pid(self) -> int | None:
        """The relay's process id, in the process that has started it."""
        return self._launcher.pid if self._launcher else None

    def poll(self) -> None:
        """Look after the relay; call it every second or so, in the worker. Returns at once."""
        if self._launcher is not None:
            self._launcher.poll()
            if self._launcher.alive:
                _publish(self._launcher)
            self.client.open()  # hears of a relay that was started again, and tells it all

    def after_fork(self) -> None:
        """In a forked child: be one more client of the same relay, which is the parent's."""
        self._launcher = None

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until the relay has sent all that it got.

        True also when it is gone: what it may not have got is for the direct pipeline.
        """
        return self.client.flush(timeout) or self.unavailable

    def end(self, timeout: float) -> bool:
        """Hand over what waits; in the worker, also see it sent, and the relay end."""
        if self._launcher is None:
            return (
                self.client.close_gracefully(min(timeout, _HAND_OVER_TIMEOUT)) or self.unavailable
            )
        end = time.monotonic() + timeout
        done = self._flushed(self._launcher, end)
        if not done and not self.unavailable:
            _log_unsent(self._launcher.address)
        # Some time in any case: the relay of a process that is executed anew would take it for
        # alive without CLOSE, and never end.
        self.client.close_gracefully(max(_CLOSE_TIMEOUT, end - time.monotonic()))
        self._launcher.close()
        self._launcher.wait(max(0.0, end - time.monotonic()))
        return done

    def _flushed(self, launcher: Launcher, end: float) -> bool:
        """Have all sent until ``end``; should the relay die meanwhile, by the next one."""
        pause = _FIRST_POLL
        while True:
            launcher.poll()
            left = max(0.0, end - time.monotonic())
            if self.flush(min(left, pause)):
                return True
            if left <= pause:
                return False
            pause *= 2  # each asks again, and a relay takes no more than some questions

    def close(self) -> None:
        """Let this process send by itself again."""
        for carried in (self._traces, self._sentry):
            if carried is not None:
                carried.restore()
        self._traces = self._sentry = None
        self.client.close()
        if self._memory is not None:
            self._memory.close()
        if self._launcher is not None:
            self._launcher.close()
            with suppress(KeyError):
                del os.environ[RELAY_ADDRESS]

    def _hello(self) -> dict[str, object]:
        resource = self._traces.resource() if self._traces else {}
        process = {"role": self._role(), "name": self._worker}
        return {**process, "resource": {}, "schema_url": "", **resource}


def _publish(launcher: Launcher) -> None:
    """Tell children that will be spawned where the relay is."""
    shared = launcher.memory.descriptor if launcher.memory else ""
    os.environ[RELAY_ADDRESS] = f"{os.getpid()}:{shared}:{launcher.address}"


def supported() -> bool:
    """Tell whether this platform has what a relay needs."""
    return socket_directory.SUPPORTED


def _log_unsent(address: str) -> None:
    """Say in the worker's own log what its relay still has: the relay's end comes after ours."""
    with suppress(OSError, FrameError):  # it hangs, or is gone
        waiting = status.waiting(status.ask(address, _STATUS_TIMEOUT))
        _log.warning(
            "taskobs: the relay has not sent %s; it goes on for up to %.0f s", waiting, _GRACE
        )


def _warn(why: str) -> None:
    _log.warning("taskobs: there is no relay, so each process sends its own telemetry: %s", why)


def _configuration(settings: Settings, worker: str, *, ours: bool) -> dict[str, object]:
    """Return what the relay is told; it reads ``OTEL_*`` itself, as the stock exporter does."""
    exporter: dict[str, object] = {"protocol": settings.otlp_protocol}
    if ours and settings.given["otlp_endpoint"] == "argument":
        exporter["endpoint"] = settings.traces_endpoint
    if ours and settings.given["otlp_headers"] == "argument":
        exporter["headers"] = dict(settings.otlp_headers or {})
    spool = None
    if settings.relay_spool is not None:
        spool = {
            "directory": str(Path(settings.relay_spool).absolute()),
            "bytes": settings.relay_spool_bytes,
            "age": settings.relay_spool_age,
        }
    identity = {"worker": worker, "parent": os.getpid(), "grace": _GRACE}
    return {**identity, "exporter": exporter, "spool": spool}
