"""Carries out a plan's faults against a worker, its relay and its backend."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from taskobs.relay_client import socket_directory
from tests.live.chaos import losses, traffic
from tests.live.chaos.plan import Fault, FaultKind, Plan
from tests.live.chaos.processes import WorkerProcesses, alive, send
from tests.live.chaos.task_log import TaskLog
from tests.live.process import wait_until

if TYPE_CHECKING:
    from tests.live.celery_process import Producer
    from tests.live.chaos.backend import FaultyBackend
    from tests.live.chaos.losses import Losses

BATCH = 0.2
"""Seconds between two batches of publishes."""
IN_A_RUN = 0.02
"""Seconds that a run has lasted whose process is aimed at: it is still there at the signal."""
BUSY_SHARE = 0.8
"""How many of the kills are aimed at a process that has been within a task for a while."""
IDLE = 10.0
"""Seconds to wait until no child is in a run."""
BURST = 120.0
"""Seconds that a burst may take."""
OVERFLOW = (14, 1000 * traffic.KIB)
"""Long spans of one task, and the characters of each: more than a process's ring holds."""
OF_RELAY = frozenset(
    {
        FaultKind.RELAY_KILLED,
        FaultKind.RELAY_KILLED_SENDING,
        FaultKind.RELAY_STOPPED,
        FaultKind.RELAY_SIGNALLED,
        FaultKind.SOCKET_REMOVED,
        FaultKind.SPOOL_REMOVED,
        FaultKind.LOCK_REMOVED,
    }
)
"""What can't be done to a worker without a relay."""
Act = Callable[[], None]
Say = Callable[[str], None]


class FaultInjector:
    """Carries out a plan against a worker."""

    def __init__(
        self,
        plan: Plan,
        processes: WorkerProcesses,
        producer: Producer,
        backend: FaultyBackend,
        counted: Losses,
        *,
        task_log: Path,
        runtime: Path,
        spool: Path | None,
        say: Say,
    ) -> None:
        """``spool`` is the spool's directory; ``runtime`` the one of the socket's directory."""
        self._plan, self._dice = plan, plan.dice
        self._processes, self._producer = processes, producer
        self._backend, self._counted = backend, counted
        self._task_log, self._runtime, self._spool, self._say = task_log, runtime, spool, say
        self._begun = 0.0
        self._ends: list[tuple[float, str, Act]] = []
        """Of faults that last: when they end, what a progress line says, and how."""
        self.killed: list[int] = []
        self.relay_kills: list[float] = []

    def carry_out(self, *, relay: bool) -> None:
        """Publish all tasks, with all that happens meanwhile."""
        plan = self._plan
        self._begun = time.monotonic()
        waiting = [one for one in plan.faults if relay or one.kind not in OF_RELAY]
        tasks = traffic.Traffic(plan.choices, plan.tasks, plan.seconds, plan.dice)
        while waiting or self._ends or tasks.left:
            while self._ends and self._ends[0][0] <= self._now:
                _, what, end = self._ends.pop(0)
                self._tell(what)
                end()
            if waiting and waiting[0].at <= self._now:
                self._begin(waiting.pop(0))
            tasks.publish_due(self._producer, self._now)
            self._processes.find_relays()
            time.sleep(BATCH)

    @property
    def _now(self) -> float:
        return time.monotonic() - self._begun

    def _tell(self, what: str) -> None:
        self._say(f"{self._now:6.1f} s: {what}")

    def _begin(self, fault: Fault) -> None:
        """Begin a fault, and note when it ends: it lasts as long as planned, also if it is late."""
        begin, end = self._acts_of(fault)
        what = fault.kind.value + (f" ({fault.amount:g})" if fault.amount else "")
        self._tell(what)
        begin()
        if end is not None and fault.seconds < math.inf:
            self._ends.append((self._now + fault.seconds, f"no longer: {what}", end))
            self._ends.sort(key=lambda one: one[0])

    def _acts_of(self, fault: Fault) -> tuple[Act, Act | None]:
        begins: dict[FaultKind, Act] = {
            FaultKind.CHILD_KILLED: self._kill_child,
            FaultKind.IDLE_CHILD_KILLED: lambda: self._kill_idle_child(fault.amount),
            FaultKind.IDLE_CHILD_KILLED_UNREAD: lambda: self._kill_idle_child_unread(fault),
            FaultKind.RING_OVERFLOWED: self._overflow_ring,
            FaultKind.RELAY_KILLED: self._kill_quiet_relay,
            FaultKind.RELAY_KILLED_SENDING: self._kill_relay,
            FaultKind.RELAY_STOPPED: self._stop_relay,
            FaultKind.RELAY_SIGNALLED: self._signal_relay,
            FaultKind.SOCKET_REMOVED: self._remove_socket,
            FaultKind.SPOOL_REMOVED: self._remove_spool,
            FaultKind.LOCK_REMOVED: self._remove_lock,
            FaultKind.BACKEND_AWAY: self._backend.go_away,
            FaultKind.BACKEND_SLOW: lambda: self._set(delay=fault.amount),
            FaultKind.SENTRY_SLOW: lambda: self._set(sentry_delay=fault.amount),
            FaultKind.TOO_LARGE: lambda: self._set(limit=int(fault.amount)),
            FaultKind.TOO_MANY: lambda: self._set(retry_after=int(fault.amount)),
        }
        ends: dict[FaultKind, Act] = {
            FaultKind.RELAY_STOPPED: self._continue_relay,
            FaultKind.BACKEND_AWAY: self._backend.come_back,
            FaultKind.BACKEND_SLOW: lambda: self._set(delay=0.0),
            FaultKind.SENTRY_SLOW: lambda: self._set(sentry_delay=0.0),
            FaultKind.TOO_LARGE: lambda: self._set(limit=None),
            FaultKind.TOO_MANY: lambda: self._set(retry_after=None),
        }
        return begins[fault.kind], ends.get(fault.kind)

    # The backend.

    def _set(self, **manners: float | None) -> None:
        for name, value in manners.items():
            setattr(self._backend, name, value)
        self._backend.apply()

    # Children.

    def _kill_child(self) -> None:
        task_log = TaskLog.read(self._task_log)
        # One that has not begun a run may be starting, which takes seconds with spawn. Celery 5.7
        # forgets the task that it has already written to such a child if that one dies.
        children = [pid for pid in self._processes.children() if pid in task_log.ran()]
        # A run that takes a while is still there when the signal is.
        busy = sorted(task_log.busy(time.time() - IN_A_RUN).intersection(children))
        aimed = busy if busy and self._dice.random() < BUSY_SHARE else children
        if aimed:
            self._kill(self._dice.choice(aimed))

    def _kill(self, child: int) -> None:
        self.killed += [pid for pid, _ in send([child], signal.SIGKILL)]

    def _kill_idle_child(self, moment: float) -> None:
        self._wait_idle()
        child = self._burst(*traffic.burst(self._dice, 3, 2))
        time.sleep(moment)
        self._kill_if_idle(child)

    def _kill_idle_child_unread(self, fault: Fault) -> None:
        self._wait_idle()
        self._stop_relay()
        try:
            child = self._burst(*traffic.burst(self._dice, 2, 2))
            time.sleep(fault.amount)
            self._kill_if_idle(child)
            time.sleep(fault.seconds)
        finally:
            self._continue_relay()

    def _overflow_ring(self) -> None:
        self._stop_relay()
        try:
            number, size = OVERFLOW
            self._burst([size] * number, [])
        finally:
            self._continue_relay()

    def _kill_if_idle(self, child: int | None) -> None:
        if child is not None and child not in TaskLog.read(self._task_log).busy(time.time()):
            self._kill(child)

    def _wait_idle(self) -> None:
        """Wait until no child is in a run; nothing is published meanwhile."""

        def idle() -> bool:
            busy = TaskLog.read(self._task_log).busy(time.time())
            return not busy.intersection(self._processes.children())

        wait_until(idle, timeout=IDLE)

    def _burst(self, *arguments: object) -> int | None:
        """Have a child record much at once, wait until it has; return its process id."""
        # By its id: the traffic has bursts of its own.
        [task_id] = traffic.publish(self._producer, [("burst", list(arguments))])

        def finished() -> bool:
            return bool(TaskLog.read(self._task_log).finished(task_id))

        if not wait_until(finished, timeout=BURST):
            return None
        return TaskLog.read(self._task_log).finished(task_id)[-1].pid

    # The relay.

    def _stop_relay(self) -> None:
        send(self._processes.find_relays(), signal.SIGSTOP)

    def _continue_relay(self) -> None:
        send(filter(alive, self._processes.relays), signal.SIGCONT)

    def _signal_relay(self) -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
            send(self._processes.find_relays(), number)

    def _kill_quiet_relay(self) -> None:
        """Kill it when nothing is being sent: nothing that has arrived will be sent again."""
        self._backend.refuse()
        self._read_counts()
        self._kill_relay()
        self._backend.accept()

    def _kill_relay(self) -> None:
        if self._processes.wait_relay() is not None:
            killed = send(self._processes.find_relays(), signal.SIGKILL)
            self.relay_kills += [when for _, when in killed]

    def _read_counts(self) -> None:
        """Take what the relay has counted, which goes with it, once it sends no more."""
        told = losses.ask(self._processes.pid, str(self._runtime))
        while told is not None:
            self._counted.note_status(told)
            before, told = told, losses.ask(self._processes.pid, str(self._runtime))
            if told is None or told["exported"] == before["exported"]:
                return

    # Files.

    def _remove_socket(self) -> None:
        for pid, address in socket_directory.addresses({"XDG_RUNTIME_DIR": str(self._runtime)}):
            if pid == self._processes.pid:
                Path(address).unlink(missing_ok=True)

    def _remove_spool(self) -> None:
        if self._spool is not None:
            shutil.rmtree(self._spool, ignore_errors=True)

    def _remove_lock(self) -> None:
        if self._spool is not None:
            for path in self._spool.rglob("*.lock"):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
