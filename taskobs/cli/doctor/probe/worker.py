"""A worker of the app for one task, and what it and its relay say."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from taskobs.cli.doctor.evidence import Counted, Probe
from taskobs.cli.doctor.probe.message import EVENT, READY, RUN, VARIABLE, Order, read
from taskobs.internal import pids
from taskobs.relay_client import socket_directory, status
from taskobs.view.demo.process import Process

_APP: Final = "taskobs.cli.doctor.probe.worker_app"
_STOP: Final = 20.0
"""Seconds that the worker may take to stop."""
_EVENT_WITHIN: Final = 10.0
_SENT_WITHIN: Final = 10.0
_REFUSED_WITHIN: Final = 2.0
_RELAY_ENDS: Final = 12.0
"""Seconds: longer than a relay goes on after its worker."""
_TICK: Final = 0.05
_LAST_LINES: Final = 3
_TROUBLE: Final = re.compile(
    r"taskobs.*(fail|refused|dropped|unsent|no relay|can't|died)|Failed to export"
)
_OPTIONS: Final = (
    *("--concurrency", "1", "--loglevel", "INFO"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)


class ProbeWorker:
    """The worker, while it runs."""

    def __init__(self, process: Process, order: Order) -> None:
        self.order = order
        self._process = process
        self._folder = Path(order.folder)

    def wait(self, found: Probe, timeout: float, *, event: bool, patient: bool) -> None:
        """Wait until the task has run, and until its span and event are sent; note that.

        Unless ``patient``, the latter is waited for but shortly: a server has refused them.
        """
        began = time.monotonic()
        self._until((self._folder / RUN).exists, timeout)
        found.seconds = time.monotonic() - began
        found.run = read(self._folder / RUN)
        ready = read(self._folder / READY)
        found.ready = ready is not None
        found.initialised = bool(ready and ready["init"])
        if found.run is None:
            found.exit_code = self._process.wait(0)
            return
        if event:
            self._until((self._folder / EVENT).exists, _EVENT_WITHIN)
            found.event = read(self._folder / EVENT)
        if ready is not None:
            limit = _SENT_WITHIN if patient else _REFUSED_WITHIN
            self._ask_relay(found, int(ready["pid"]), limit)

    def _ask_relay(self, found: Probe, pid: int, limit: float) -> None:
        """Ask the relay until it has sent what there is, or has said why not."""

        def is_sent() -> bool:
            found.relay = _relay_of(pid)
            return found.relay is None or _is_settled(found.relay, event=found.event is not None)

        if socket_directory.SUPPORTED:
            self._until(is_sent, limit)

    def _until(self, condition: Callable[[], bool], timeout: float) -> None:
        end = time.monotonic() + timeout
        while not condition() and self._process.wait(0) is None and time.monotonic() < end:
            time.sleep(_TICK)

    def stop(self, found: Probe) -> None:
        """Stop the worker, which sends what it has, and note what it said."""
        self._process.stop(_STOP)
        lines = self._process.lines
        found.log = _trouble(lines, ran=found.run is not None)


@contextmanager
def probe_worker(app: str, queue: str, pool: str | None) -> Generator[ProbeWorker]:
    """Start a worker, as ``celery worker`` does; it is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="taskobs-doctor-", ignore_cleanup_errors=True) as name:
        task_id, doctor = str(uuid4()), os.getpid()
        order = Order(app=app, queue=queue, folder=name, task_id=task_id, doctor=doctor)
        command = [sys.executable, "-m", "celery", "-A", _APP, "worker", *_OPTIONS]
        command += ["--queues", queue, "--hostname", f"{queue}@%h"]
        command += ["--pool", pool] if pool else []
        environment = {**os.environ, VARIABLE: order.as_text(), "PYTHONUNBUFFERED": "1"}
        with Process(command, environment=environment) as process:
            try:
                yield ProbeWorker(process, order)
            finally:
                process.stop(_STOP)


def remove_spool(directory: Path, worker: str, found: Probe | None) -> None:
    """Remove the files that the relay of a worker, which has ended, leaves in its spool.

    A relay that still sends would make them again, so its end is waited for.
    """
    pid = int(((found and found.relay) or {}).get("pid", 0))
    end = time.monotonic() + _RELAY_ENDS
    while pid and pids.start_time(pid) and time.monotonic() < end:
        time.sleep(_TICK)
    for path in directory.rglob(f"{worker}@*"):
        with suppress(OSError):
            path.unlink()


def _relay_of(pid: int) -> dict[str, Any] | None:
    """Return what the relay of a worker counts; None if it has none."""
    for one in status.every(os.environ):
        if one.worker_pid == pid and not one.problem:
            return dict(one.reply)
    return None


def _is_settled(relay: dict[str, Any], *, event: bool) -> bool:
    counts = [Counted.read(relay, kind) for kind in ("span", "envelope") if event or kind == "span"]
    failed = any(count.dropped or count.failing for count in counts)
    return failed or all(count.exported for count in counts)


def _trouble(lines: Sequence[str], *, ran: bool) -> list[str]:
    """Return the lines that say that something is wrong; if the task did not run, the last ones."""
    found = [line.strip() for line in lines if _TROUBLE.search(line)]
    if not ran:
        found += [" / ".join([line.strip() for line in lines if line.strip()][-_LAST_LINES:])]
    return [line for line in found if line]
