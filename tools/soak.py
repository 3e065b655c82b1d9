"""Run tasks in one process, failing ones too, and see whether its memory grows.

A worker of this process gets its messages from a broker in memory; its telemetry goes to a receiver
in a process of its own. Prints what is resident, and the number of Python's memory blocks, now and
then; the first half is for warming up: caches fill slowly.

Exit status: 0 if memory is flat; 1 if it grows.
"""

from __future__ import annotations

import argparse
import gc
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sentry_sdk
from celery import Celery
from celery.contrib.testing.worker import start_worker
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import taskobs

BATCH: Final = 250
"""Runs after which all that waits to be sent is."""
FAILING: Final = 10
"""Every how many runs one fails."""
PATIENCE: Final = 120.0
"""Seconds after which a batch won't end any more."""
BLOCKS: Final = 0.25
"""How many blocks of memory a run may leave: less than one, which would be a leak."""
MEBIBYTE: Final = 1024 * 1024
RECEIVER: Final = """
import sys, time
from taskobs.testing.receiver import Receiver
with Receiver() as receiver:
    print(receiver.endpoint, receiver.dsn, flush=True)
    while True:
        time.sleep(0.2)
        receiver.clear()
"""


@dataclass(frozen=True)
class Mark:
    """What the process holds after so many runs; ``resident`` is in bytes."""

    runs: int
    resident: int
    blocks: int

    def __str__(self) -> str:
        return f"{self.runs:8,} runs  {self.resident / MEBIBYTE:7.1f} MiB  {self.blocks:9,} blocks"


class Shop:
    """An app whose tasks count how often they are run."""

    def __init__(self) -> None:
        self.app = Celery("soak", broker="memory://", set_as_current=True)
        self.app.conf.update(
            broker_transport_options={"polling_interval": 0.001},
            task_ignore_result=True,
            worker_hijack_root_logger=False,
        )
        self._done = 0
        self._changed = threading.Condition()

        @self.app.task(name="soak.work")
        def work(number: int) -> None:
            with self._changed:
                self._done += 1
                self._changed.notify_all()
            if number % FAILING == 0:
                raise ValueError(number)

        self._work = work

    def run(self, number: int) -> None:
        """Publish tasks, and wait until they have begun; raises `TimeoutError`."""
        with self._changed:
            wanted = self._done + number
        for one in range(number):
            self._work.delay(one)
        with self._changed:
            if not self._changed.wait_for(lambda: self._done >= wanted, PATIENCE):
                raise TimeoutError(f"{wanted - self._done} tasks did not run")


@contextmanager
def receiving() -> Generator[tuple[str, str]]:
    """Run a receiver that keeps nothing; give its endpoint and its DSN."""
    command = [sys.executable, "-c", RECEIVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101  # it is a pipe
            endpoint, dsn = process.stdout.readline().split()
            yield endpoint, dsn
        finally:
            process.kill()


def sent() -> None:
    """Wait until all telemetry so far has been sent."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush()
    sentry_sdk.flush(PATIENCE)


def resident() -> int:
    """Give how many bytes of this process are in memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def marks(shop: Shop, runs: int, every: int) -> Generator[Mark]:
    """Run that many tasks; give what is held now and then."""
    for number in range(BATCH, runs + 1, BATCH):
        shop.run(BATCH)
        sent()
        if number % every == 0:
            time.sleep(0.2)  # for the end of the last run, and the answer to the last event
            gc.collect()
            yield Mark(number, resident(), sys.getallocatedblocks())


def grown(seen: Sequence[Mark], limit: float) -> str:
    """Say how memory has grown, after the first half, if it has; ``limit`` is in MiB."""
    warm = [mark for mark in seen if mark.runs >= seen[-1].runs / 2]
    first, last = warm[0], warm[-1]
    more = (last.resident - first.resident) / MEBIBYTE
    left = (last.blocks - first.blocks) / (last.runs - first.runs)
    print(f"from {first.runs:,} to {last.runs:,} runs: {more:+.1f} MiB, {left:+.3f} blocks a run")
    if left > BLOCKS:
        return f"each run leaves {left:.2f} blocks of memory"
    return f"{more:.1f} MiB more are resident" if more > limit else ""


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50_000, help="how many (50,000)")
    parser.add_argument("--every", type=int, default=5_000, help="runs between two looks (5,000)")
    parser.add_argument("--limit", type=float, default=4.0, help="MiB that may come (4)")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)
    seen: list[Mark] = []
    shop = Shop()
    with (
        receiving() as (endpoint, dsn),
        taskobs.init(otlp_endpoint=endpoint, sentry_dsn=dsn, strict=True),
        start_worker(shop.app, pool="solo", perform_ping_check=False, shutdown_timeout=30),
    ):
        for mark in marks(shop, chosen.runs, chosen.every):
            print(mark, flush=True)
            seen.append(mark)
    problem = grown(seen, chosen.limit)
    print(f"soak: {problem or 'memory is flat'}")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
