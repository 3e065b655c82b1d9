"""``make bench``: CPU time of a publish, a run and a failing run, each way of observing it.

All variants run interleaved, each in a process of its own, exporting to a live receiver in yet
another process; the figures are medians over the rounds, in microseconds of CPU time of the
variant's process, its exporter's threads included. Read them as ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Final, cast

from bench.variants import VARIANTS

if TYPE_CHECKING:
    from typing_extensions import Self

COUNTS: Final = {"publish": 200, "run": 400, "failing run": 60}
_RECEIVER: Final = """
import sys
from taskobs.demo.receiver import Receiver
with Receiver() as receiver:
    print(receiver.endpoint, receiver.dsn, flush=True)
    while sys.stdin.readline():
        receiver.clear()
"""

Figures = dict[str, dict[str, float]]


class Process:
    """A child process that answers a line with a line."""

    def __init__(self, *command: str) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "SENTRY_"))}
        self._process = subprocess.Popen(  # noqa: S603  # ours, with fixed arguments
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )

    def read(self) -> str:
        """Read one line; raises RuntimeError if the process has ended."""
        line = cast("IO[str]", self._process.stdout).readline().strip()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return line

    def write(self, line: str) -> None:
        """Write one line."""
        into = cast("IO[str]", self._process.stdin)
        into.write(line + "\n")
        into.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def measure(rounds: int) -> Figures:
    """Measure all variants, interleaved; gives the medians by variant and by what was done."""
    with ExitStack() as stack:
        receiver = stack.enter_context(Process("-c", _RECEIVER))
        endpoint, dsn = receiver.read().split()
        processes = {
            name: stack.enter_context(Process("-m", "bench.variants", name, endpoint, dsn))
            for name in VARIANTS
        }
        for process in processes.values():
            process.read()
        costs: dict[str, dict[str, list[float]]] = {
            name: {what: [] for what in COUNTS} for name in VARIANTS
        }
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", end="\r", file=sys.stderr, flush=True)
            for what, count in COUNTS.items():
                for name, process in processes.items():
                    process.write(f"{what} {count}")
                    costs[name][what].append(float(process.read()))
            receiver.write("clear")
    return {
        name: {what: statistics.median(found) for what, found in by_what.items()}
        for name, by_what in costs.items()
    }


def table(figures: Figures) -> str:
    """Write the figures as a Markdown table: microseconds, and the added cost in floors."""
    head = [f"{what} | added" for what in COUNTS]
    lines = [f"| | {' | '.join(head)} |", "|---" * (1 + 2 * len(COUNTS)) + "|"]
    for name, costs in figures.items():
        cells: list[str] = []
        for what, cost in costs.items():
            base = figures["bare"][what]
            unit = figures["floor"][what] - base
            cells += [f"{cost:,.0f} µs", f"{(cost - base) / unit:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="25 rounds instead of 7")
    full: bool = parser.parse_args().full
    figures = measure(25 if full else 7)
    print("CPU time of one, and what it adds to bare, in units of what the floor adds\n")
    print(table(figures))


if __name__ == "__main__":
    main()
