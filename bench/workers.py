"""The second part: real prefork workers over Redis. Throughput, CPU time by process, memory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from celery import Celery
from redis import Redis

from bench import proc
from bench.children import PATIENCE, Receiver, environment
from bench.figures import Figure, figure
from bench.setups import NAPS, WORKER_SETUPS

if TYPE_CHECKING:
    from typing_extensions import Self

CHILDREN: Final = 2
QUEUE: Final = "celery"
TICK: Final = 0.005
STOPPED: Final = "stopped"
"""A set-up with this in its name has its relay stopped with SIGSTOP."""
QUICK_EXPORT: Final = {"OTEL_BSP_SCHEDULE_DELAY": "500"}
"""Batch processors send within half a second, so that a round pays for its own spans."""


class MissingRedisError(Exception):
    """There is no redis-server on this machine."""


@contextmanager
def redis_server(databases: int = 16) -> Generator[str]:
    """Run a Redis server that keeps nothing; gives its URL without the database."""
    program = shutil.which("redis-server")
    if program is None:
        raise MissingRedisError("redis-server is not on this machine: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        command += ["--databases", str(databases)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603  # found above
        try:
            wait_until(lambda: _listens(int(port)))
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def _listens(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def wait_until(condition: Callable[[], bool], timeout: float = 120.0) -> None:
    """Poll until it is true; raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(TICK)


class Worker:
    """A prefork worker with one set-up and a database of its own."""

    def __init__(
        self,
        name: str,
        url: str,
        receiver: Receiver,
        *,
        level: str = "WARNING",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.stopped = STOPPED in name
        self._redis: Any = Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
        self._publisher = Celery("publisher", broker=url)
        settings = {
            "BENCH_SETUP": name,
            "BENCH_BROKER": url,
            "BENCH_ENDPOINT": receiver.endpoint,
            "BENCH_DSN": receiver.dsn,
            "BENCH_AGENT": receiver.agent,
        }
        self._log: IO[bytes] = tempfile.NamedTemporaryFile()  # noqa: SIM115  # closed at the exit
        command = [sys.executable, "-m", "celery", "-A", "bench.app", "worker", "-l", level]
        command += ["-c", str(CHILDREN), "-n", f"{abs(hash(name))}@bench"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        self.begun = time.perf_counter()
        self._process = subprocess.Popen(  # noqa: S603  # ours
            command,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            env=environment({**settings, **QUICK_EXPORT, **(env or {})}),
        )

    @property
    def log(self) -> str:
        """What it has logged."""
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def wait_ready(self) -> float:
        """Wait for ``ready.`` in a log at INFO; gives the seconds since the start."""
        wait_until(lambda: " ready." in self.log or self._process.poll() is not None)
        return time.perf_counter() - self.begun

    def warm_up(self, tasks: int) -> None:
        """Let it run some tasks, then look which processes there are."""
        self.run(tasks)
        if "relay" in self.name and not self.relay:
            raise RuntimeError(f"{self.name}: no relay\n{self.log}")
        if self.stopped:
            for pid in self.relay:
                os.kill(pid, signal.SIGSTOP)

    def run(self, tasks: int, task: str = "noop", *args: object) -> float:
        """Have it run so many tasks, published before; gives the seconds that took."""
        send: Any = self._publisher.send_task
        for _ in range(tasks):
            send(f"bench.app.{task}", args, queue="staging", ignore_result=True)
        begun = time.perf_counter()
        self._redis.rename("staging", QUEUE)
        wait_until(self._idle)
        return time.perf_counter() - begun

    def _idle(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended\n{self.log}")
        return not self._redis.llen(QUEUE) and not self._redis.hlen("unacked")

    @property
    def relay(self) -> list[int]:
        """Its relay's process id, if it has one."""
        return proc.relays(self._process.pid)

    @property
    def processes(self) -> dict[str, list[int]]:
        """The ids of its processes, by what they are."""
        relay = self.relay
        pool = [pid for pid in proc.children(self._process.pid) if pid not in relay]
        return {"parent": [self._process.pid], "children": pool, "relay": relay}

    def cpu(self) -> dict[str, float]:
        """Give the CPU seconds so far, by what the processes are."""
        return {kind: sum(map(proc.cpu, pids)) for kind, pids in self.processes.items()}

    def memory(self) -> dict[str, list[proc.Memory]]:
        """Give the memory of each process, by what it is."""
        return {kind: list(map(proc.memory, pids)) for kind, pids in self.processes.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.relay if self.stopped else ():
            os.kill(pid, signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._redis.close()


@dataclass
class Worked:
    """The measurements of one kind of worker."""

    rate: Figure
    """No-op tasks per second."""
    naps: dict[str, Figure]
    """Tasks per second that wait, by the milliseconds that each waits for."""
    cpu: dict[str, float]
    """Microseconds of CPU per task, by what the process is; children together."""
    resident: dict[str, float]
    """Megabytes of one such process."""
    private: dict[str, float]


@dataclass
class _Count:
    rates: list[float] = field(default_factory=list[float])
    naps: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    cpu: dict[str, float] = field(default_factory=dict[str, float])
    tasks: int = 0


def measure(rounds: int, tasks: int, peers: Iterable[str] = ()) -> dict[str, Worked]:
    """Have workers of all kinds run tasks, one kind after the other, in each round."""
    with ExitStack() as stack:
        names = (*WORKER_SETUPS, *peers)
        url = stack.enter_context(redis_server(len(names)))
        receiver = stack.enter_context(Receiver())
        workers = {
            name: stack.enter_context(Worker(name, f"{url}/{number}", receiver))
            for number, name in enumerate(names)
        }
        for worker in workers.values():
            worker.warm_up(200)
        counts = {name: _Count() for name in workers}
        for number in range(rounds):
            print(f"workers: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for name, worker in workers.items():
                _one_round(worker, workers, counts[name], tasks)
            receiver.clear()
        return {name: _worked(worker, counts[name]) for name, worker in workers.items()}


def _one_round(worker: Worker, workers: dict[str, Worker], count: _Count, tasks: int) -> None:
    _calm_down(workers)
    before = worker.cpu()
    count.rates.append(tasks / worker.run(tasks))
    _calm_down(workers)  # what it has recorded is out
    for kind, seconds in worker.cpu().items():
        count.cpu[kind] = count.cpu.get(kind, 0.0) + seconds - before[kind]
    count.tasks += tasks
    for seconds, share in NAPS.items():
        naps = max(1, tasks // share)
        rate = naps / worker.run(naps, "nap", seconds)
        count.naps.setdefault(f"{seconds * 1000:.0f}", []).append(rate)


def _calm_down(workers: dict[str, Worker]) -> None:
    """Wait until the workers have been idle for longer than a batch waits for more."""
    quiet = 0
    last = _cpu(workers)
    while quiet < 2:  # noqa: PLR2004  # twice 0.6 s
        time.sleep(0.6)
        now = _cpu(workers)
        quiet = quiet + 1 if now - last < 0.03 else 0  # noqa: PLR2004  # of a CPU second
        last = now


def _cpu(workers: dict[str, Worker]) -> float:
    return sum(sum(worker.cpu().values()) for worker in workers.values())


def _worked(worker: Worker, count: _Count) -> Worked:
    sizes = {kind: found for kind, found in worker.memory().items() if found}
    return Worked(
        rate=figure(count.rates),
        naps={each: figure(found) for each, found in count.naps.items()},
        cpu={kind: seconds / count.tasks * 1e6 for kind, seconds in count.cpu.items()},
        resident={
            kind: sum(m.resident for m in found) / len(found) for kind, found in sizes.items()
        },
        private={kind: sum(m.private for m in found) / len(found) for kind, found in sizes.items()},
    )
