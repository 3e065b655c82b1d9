"""Carry out a plan against a real worker, and judge what came of it."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.live.celery_process import TROUBLE, Broker, LiveApp
from tests.live.chaos import losses, traffic
from tests.live.chaos.backend import METRICS, FaultyBackend
from tests.live.chaos.faults import FaultInjector, Say
from tests.live.chaos.findings import Arrived, Finding, Kills
from tests.live.chaos.losses import Losses
from tests.live.chaos.processes import WorkerProcesses
from tests.live.chaos.task_log import TaskLog
from tests.live.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.live.celery_process import Worker
    from tests.live.chaos.plan import Plan

APP = "tests.live.apps.chaos"
CHILDREN = 4
NODE = "chaos"
DRAINED = 120.0
"""Seconds in which a relay has to send what an earlier one has left in the spool."""
RELAY_ENDS = 120.0
"""Seconds in which a relay has to end after its worker."""
STOP = 120.0
SHORT_SHUTDOWN = "3"
"""Seconds that a worker waits at its stop for a backend that is away."""


@dataclass
class Report:
    """What came of a plan."""

    finding: Finding
    counted: Losses
    killed: int
    relay_kills: int
    seconds: float
    troubles: list[str] = field(default_factory=list[str])
    """What else was not as it should be, such as a worker that did not stop."""

    @property
    def good(self) -> bool:
        """Whether all that was promised arrived, and nothing else was wrong."""
        return self.finding.good and not self.troubles


def run_plan(
    plan: Plan,
    folder: Path,
    broker: Broker,
    *,
    relay: bool,
    pool: str = "prefork",
    say: Say = lambda _: None,
) -> Report:
    """Carry out a plan against a worker with the relay, or without; judge it."""
    with ExitStack() as stack:
        return _Run(stack, plan, folder, broker, relay=relay, pool=pool, say=say).carry_out()


class _Run:
    """A worker, a producer and their backends, for one plan."""

    def __init__(
        self,
        stack: ExitStack,
        plan: Plan,
        folder: Path,
        broker: Broker,
        *,
        relay: bool,
        pool: str,
        say: Say,
    ) -> None:
        self._plan, self._folder, self._broker, self._say = plan, folder, broker, say
        self._relay, self._pool = relay, pool
        self._begun = time.monotonic()
        self._task_log = folder / "task_log"
        self._spool = folder / "spool" if relay and plan.spool else None
        # A socket's path is short, and a test's folder may be deep.
        self._runtime = Path(tempfile.mkdtemp(prefix="chaos-"))
        stack.callback(shutil.rmtree, self._runtime, ignore_errors=True)
        self._backend = stack.enter_context(FaultyBackend())
        self._calm = stack.enter_context(FaultyBackend())
        self._app = stack.enter_context(LiveApp(folder, self._backend.endpoint, self._backend.dsn))
        self._app.trouble_expected = True  # told with the rest
        self._stack = stack
        self._counted = Losses()
        self._troubles: list[str] = []
        self._workers: list[Worker] = []

    def carry_out(self) -> Report:
        worker, processes = self._start_worker()
        # The producer is no part of it: it has a backend that stays.
        outside = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._calm.endpoint,
            "SENTRY_DSN": self._calm.dsn,
        }
        producer = self._app.producer(self._broker, app=APP, env={**self._settings(), **outside})
        producer.run("result = 'ready'")
        injector = FaultInjector(
            self._plan,
            processes,
            producer,
            self._backend,
            self._counted,
            task_log=self._task_log,
            runtime=self._runtime,
            spool=self._spool,
            say=self._say,
        )
        injector.carry_out(relay=self._relay)
        self._say("waiting for the worker")
        if not traffic.settled(producer, lambda: len(worker.log)):
            self._troubles.append("the worker still has tasks")
        producer.close()
        self._stop(worker, processes)
        if self._plan.stops_without_backend:
            self._backend.come_back()
            if self._spool is not None:
                self._drain()
        return self._report(injector, processes)

    def _settings(self) -> dict[str, str]:
        settings = {
            "APP_TASK_LOG": str(self._task_log),
            "XDG_RUNTIME_DIR": str(self._runtime),
            # The counts of relays have to arrive, whatever happens to spans and events.
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": self._calm.endpoint + METRICS,
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        }
        if not self._relay:
            settings["TASKOBS_RELAY"] = "0"
        if self._spool is not None:
            settings["TASKOBS_RELAY_SPOOL"] = str(self._spool)
        if self._plan.stops_without_backend:
            settings["TASKOBS_SHUTDOWN_TIMEOUT"] = SHORT_SHUTDOWN
        return settings

    def _start_worker(self) -> tuple[Worker, WorkerProcesses]:
        """Start a worker; each has the same name."""
        recycling = ("--max-tasks-per-child", str(self._plan.recycle))
        worker = self._app.worker(
            self._broker,
            *recycling,
            pool=self._pool,
            concurrency=CHILDREN,
            app=APP,
            env=self._settings(),
            node=NODE,
        )
        self._workers.append(worker)
        return worker, self._stack.enter_context(WorkerProcesses(worker.pid))

    def _stop(self, worker: Worker, processes: WorkerProcesses) -> None:
        processes.find_relays()
        if self._relay:
            self._read_counts(worker)
        self._say("stopping")
        if (status := worker.stop(timeout=STOP)) != 0:
            self._troubles.append(f"the worker ended with {status}")
        if not processes.wait_relays_end(RELAY_ENDS):
            self._troubles.append("a relay is still there")

    def _read_counts(self, worker: Worker) -> None:
        found: list[Mapping[str, Any]] = []

        def shown() -> bool:
            # The command waits two seconds for a relay, and a busy machine may take longer.
            told = losses.ask_by_command(worker.pid, str(self._runtime))
            found[:] = [] if told is None else [told]
            return bool(found)

        if wait_until(shown, timeout=STOP):
            self._counted.note_status(found[0])
        else:
            self._troubles.append("taskobs status shows no relay")

    def _drain(self) -> None:
        """Start a worker of the same name, and wait until it has sent what the spool holds."""
        self._say("another worker of the same name sends what is left")
        worker, processes = self._start_worker()

        def drained() -> bool:
            told = losses.ask(worker.pid, str(self._runtime))
            return told is not None and not any([*told["pending"].values(), *told["open"].values()])

        if not wait_until(drained, timeout=DRAINED, tick=0.25):
            self._troubles.append("what was left in the spool was not sent")
        self._stop(worker, processes)

    def _report(self, injector: FaultInjector, processes: WorkerProcesses) -> Report:
        self._counted.note_metrics(self._calm.metrics)
        log = "\n".join(worker.log for worker in self._workers)
        self._look_for_trouble(log, injector, processes)
        found = TaskLog.read(self._task_log)
        backends = self._backend, self._calm
        arrived = Arrived(
            [span for backend in backends for span in backend.spans],
            [event for backend in backends for event in backend.events],
            [
                int(str(item.data["bytes"]))
                for backend in backends
                for item in backend.items
                if item.kind == "attachment"
            ],
        )
        self._save(arrived)
        kills = Kills(frozenset(injector.killed))
        return Report(
            Finding(found, arrived, log, kills, self._counted.by_kind),
            self._counted,
            killed=len(injector.killed),
            relay_kills=len(injector.relay_kills),
            seconds=time.monotonic() - self._begun,
            troubles=self._troubles,
        )

    def _save(self, arrived: Arrived) -> None:
        """Write what arrived to files, for whoever looks for the reason of a complaint."""
        events = (json.dumps({**event.data, "id": event.event_id}) for event in arrived.events)
        (self._folder / "events.jsonl").write_text("\n".join(events))
        spans = (f"{span.trace_id} {span.span_id} {span.name}" for span in arrived.spans)
        (self._folder / "spans.txt").write_text("\n".join(spans))

    def _look_for_trouble(
        self, log: str, injector: FaultInjector, processes: WorkerProcesses
    ) -> None:
        if TROUBLE in log:
            self._troubles.append("the worker's log tells of trouble")
        if not self._relay:
            return
        if not processes.relays:
            self._troubles.append("no relay was seen")
        if (deaths := log.count("taskobs: the relay died")) != len(injector.relay_kills):
            self._troubles.append(f"{deaths} relays died, {len(injector.relay_kills)} were killed")
        last = losses.logged(log)
        for kind, number in last.items():
            if number > self._counted.by_kind[kind]:
                self._troubles.append(f"{number} of {kind} in the log, fewer in the metrics")
