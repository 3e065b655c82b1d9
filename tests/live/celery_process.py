"""Real Celery processes for a test: workers, beats, and producers that run a line of Python."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from taskobs.view.demo import folder as folders
from tests.live.process import LIMIT, Program, ProgramError, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

ProgramT = TypeVar("ProgramT", bound=Program)
ROOT = Path(__file__).parents[2]
SHOP = "tests.live.apps.shop"
SHUTDOWN_TIMEOUT = 30.0
"""Seconds: more than the setting's default, for what no test is about: a slow machine."""
TROUBLE = "taskobs: telemetry failed"
"""What the guard logs; no live test passes with it in a log, unless it expects it."""


@dataclass(frozen=True)
class Broker:
    """Where an app's messages and results go."""

    kind: str
    """``redis``, ``rabbitmq`` or ``file``."""
    url: str
    backend: str
    options: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def env(self) -> dict[str, str]:
        """The variables from which the apps of the tests read it."""
        options = json.dumps(dict(self.options))
        return {"APP_BROKER": self.url, "APP_BACKEND": self.backend, "APP_BROKER_OPTIONS": options}


def file_broker_in(folder: Path) -> Broker:
    """Give a broker in a folder: slow, and good for one worker."""
    for name in ("queue", "control", "results"):
        (folder / name).mkdir(parents=True)
    options = {
        "data_folder_in": str(folder / "queue"),
        "data_folder_out": str(folder / "queue"),
        "control_folder": str(folder / "control"),
        "polling_interval": 0.05,
    }
    return Broker("file", f"{folders.SCHEME}://", f"file://{folder / 'results'}", options)


POOL_NAMES = {"prefork": "prefork, fork", "spawn": "prefork, spawn"}
"""Those by which the outcome table calls them differently."""


def with_spawn(env: Mapping[str, str] | None) -> dict[str, str]:
    """Add the setting by which prefork spawns its children."""
    config = json.loads((env or {}).get("APP_CONFIG", "{}"))
    config["worker_pool_start_method"] = "spawn"
    return {**(env or {}), "APP_CONFIG": json.dumps(config)}


class Worker(Program):
    """A ``celery worker`` that is ready; see `LiveApp.worker`."""

    def wait_received(self, task_id: str) -> None:
        """Wait until the worker logs that it got this task."""
        self.wait_log(f"[{task_id}] received")


class Beat(Program):
    """A ``celery beat``; see `LiveApp.beat`."""

    def wait_idle(self) -> None:
        """Wait until it sleeps, after it has published; its log needs ``-l DEBUG``.

        Celery's own beat ends with 1 if it is stopped while it publishes: its handler of SIGTERM
        closes the schedule, which the publish then writes to (seen in 5.7, without taskobs too).
        """
        self.wait_log("sent. id->")
        if not wait_until(
            lambda: "Waking up" in self.log.rpartition("sent. id->")[2], timeout=LIMIT
        ):
            raise ProgramError(f"beat did not rest within {LIMIT} s\n{self.tail()}")

    def stop_between_ticks(self) -> int:
        """Stop it right after its next tick, and so long before the one after; see `wait_idle`."""
        before = self.log.count("sent. id->")
        if not wait_until(lambda: self.log.count("sent. id->") > before, timeout=LIMIT):
            raise ProgramError(f"beat did not tick within {LIMIT} s\n{self.tail()}")
        self.wait_idle()
        return self.stop()


class Producer:
    """A process that has imported the app, and runs the Python it is sent."""

    def __init__(self, program: Program, requests: Path, answers: Path) -> None:
        self.program = program
        self._requests, self._answers = requests, answers
        self._numbers = count(1)

    def run(self, source: str, *, timeout: float = LIMIT) -> Any:  # any JSON
        """Run ``source`` with the app's module as ``app``; give what it left in ``result``.

        Names stay from call to call. Raises `ProgramError` with the traceback if it raised.
        """
        number = next(self._numbers)
        draft = self._requests / f"{number}.draft"
        draft.write_text(source)
        draft.rename(self._requests / f"{number}.py")
        answer = self._answers / f"{number}.json"
        found = wait_until(
            lambda: answer.exists() or not self.program.running, timeout=timeout, tick=0.01
        )
        if not found or not answer.exists():
            msg = f"the producer gave no answer to:\n{source}\n{self.program.tail()}"
            raise ProgramError(msg)
        given = json.loads(answer.read_text())
        if "error" in given:
            raise ProgramError(given["error"])
        return given["result"]

    def wait_active(self, task_id: str) -> None:
        """Wait until a worker says that it runs a task; a solo one can't say."""
        running = "str(app.app.control.inspect(timeout=10, limit=1).active())"
        self.run(f"import time\nwhile {task_id!r} not in {running}: time.sleep(0.05)")

    def close(self, *, timeout: float = LIMIT) -> int:
        """Let it end as a script does, at its last line; gives the exit status."""
        (self._requests / "end").touch()
        return self.program.wait(timeout=timeout)


class LiveApp:
    """Starts the processes of one app; a context manager that ends them all.

    After the test every log is searched for `TROUBLE`; set ``trouble_expected`` to allow it.
    """

    def __init__(self, folder: Path, endpoint: str | None, dsn: str | None) -> None:
        """``endpoint`` takes OTLP over HTTP, ``dsn`` takes errors; None leaves that one out."""
        self.folder = folder
        self.env: dict[str, str] = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} if endpoint else {}
        if dsn:
            self.env["SENTRY_DSN"] = dsn
        self.trouble_expected = False
        self.measured = False
        """Whether coverage is measured in the processes: it makes a short one take half again."""
        self.launcher: Sequence[str] = (sys.executable,)
        """The interpreter of all processes, after what it is started under: ``ddtrace-run``."""
        self.started: list[tuple[str, str]] = []
        """What was started over which kind of broker: a pool's name, or ``producer``, ``beat``."""
        self._programs: list[Program] = []
        self._stack = ExitStack()
        self._numbers = count(1)

    def worker(  # each is something a row of the outcome table varies
        self,
        broker: Broker,
        *args: str,
        pool: str = "prefork",
        concurrency: int = 2,
        app: str = SHOP,
        env: Mapping[str, str] | None = None,
        ready: bool = True,
        script: str | None = None,
        node: str | None = None,
        mingle: bool = False,
    ) -> Worker:
        """Start a worker and wait until it is ready; ``args`` go to ``celery worker``.

        The pool ``spawn`` is prefork whose children are spawned. A ``script`` is a module that
        calls ``worker_main()`` in place of that command. Each worker has a name of its own, unless
        ``node`` says another; with ``mingle`` it talks to others, as workers do by default.
        """
        called = POOL_NAMES.get(pool, pool)
        if pool == "spawn":
            pool, env = "prefork", with_spawn(env)
        elif pool == "eventlet":
            env = {"EVENTLET_NO_GREENDNS": "no", **(env or {})}  # `make test` says yes
        name = f"w{next(self._numbers)}"
        command = [*self.launcher, "-m", *([script] if script else ["celery", "-A", app])]
        command += [
            "worker",
            "-n",
            f"{node or name}@%h",
            "-l",
            "INFO",
            "-P",
            pool,
            "-c",
            str(concurrency),
        ]
        command += [*args] if mingle else ["--without-mingle", "--without-gossip", *args]
        worker = self._start(Worker, command, name, broker, env)
        self.started.append((called, broker.kind))
        if ready:
            worker.wait_ready(lambda: " ready." in worker.log)
        return worker

    def beat(
        self,
        broker: Broker,
        *args: str,
        app: str = SHOP,
        env: Mapping[str, str] | None = None,
    ) -> Beat:
        """Start a separate ``celery beat``."""
        name = f"beat{next(self._numbers)}"
        command = [*self.launcher, "-m", "celery", "-A", app, "beat", "-l", "INFO"]
        command += ["-s", str(self.folder / f"{name}.schedule"), "--pidfile=", *args]
        self.started.append(("beat", broker.kind))
        return self._start(Beat, command, name, broker, env)

    def producer(
        self, broker: Broker, *, app: str = SHOP, env: Mapping[str, str] | None = None
    ) -> Producer:
        """Start a process that imports ``app`` and publishes as it is told."""
        name = f"producer{next(self._numbers)}"
        requests, answers = self.folder / f"{name}-requests", self.folder / f"{name}-answers"
        requests.mkdir()
        answers.mkdir()
        command = [*self.launcher, "-m", "tests.live.apps.producer", app]
        command += [str(requests), str(answers), str(os.getpid())]
        self.started.append(("producer", broker.kind))
        return Producer(self._start(Program, command, name, broker, env), requests, answers)

    @staticmethod
    def task(name: str, *, app: str = SHOP) -> str:
        """Give the full name of a task of the app."""
        return f"{app}.{name}"

    def environment(self, broker: Broker, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Give the whole environment of a process of the app."""
        foreign = ("OTEL_", "SENTRY_", "TASKOBS_", *(() if self.measured else ("COVERAGE_",)))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        return {
            **kept,
            **self.env,
            **broker.env,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "TASKOBS_SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT),
            **(extra or {}),
        }

    def _start(
        self,
        kind: type[ProgramT],
        command: Sequence[str],
        name: str,
        broker: Broker,
        env: Mapping[str, str] | None,
    ) -> ProgramT:
        log, full = self.folder / f"{name}.log", self.environment(broker, env)
        program = kind(command, log=log, env=full, cwd=self.folder)
        self._programs.append(program)
        self._stack.enter_context(program)
        return program

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every process, the newest first, and look for trouble in their logs."""
        self._stack.__exit__(kind, error, traceback)
        troubled = [p.tail() for p in self._programs if TROUBLE in p.log]
        if troubled and not self.trouble_expected:
            raise ProgramError("\n".join(troubled))
