"""The fourth part: instructions of a publish, a run and a failing run, counted by Cachegrind.

A busy machine and a slow one count the same: where a thread exports, to some hundredths, else to
less than one. What a relay does, in a process of its own, is not in there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bench.children import Process, Receiver, environment

COUNTS: Final = {"publish": 300, "run": 600, "spans": 150, "fail": 80}
COUNTED: Final = (
    *("bare", "floor", "unsampled, direct", "unsampled, relay"),
    *("spans + Sentry, direct", "spans + Sentry, relay", "stock pair"),
)
"""The set-ups: each takes a minute."""
PROCESSES: Final = 2
"""At the same time."""
_FOUND: Final = re.compile(r"I\s+refs:\s+([\d,]+)")


class MissingValgrindError(Exception):
    """There is no valgrind on this machine."""


def measure() -> dict[str, dict[str, float]]:
    """Give thousands of instructions by set-up and by what was done.

    Raises:
        MissingValgrindError: it is not installed.
        RuntimeError: a process has failed.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise MissingValgrindError("valgrind is not on this machine: apt-get install valgrind")
    with Receiver() as receiver, ThreadPoolExecutor(PROCESSES) as pool:
        for name in COUNTED:  # what they import is compiled before it counts
            with Process("-m", "bench.one", name, *receiver.target) as process:
                process.read()

        def count(name: str, what: str) -> float:
            # Twice, with more of them: the difference is without the imports and the set-up.
            few = COUNTS[what] // 5
            few_took, more_took = (
                _run(valgrind, name, what, number, receiver) for number in (few, few + COUNTS[what])
            )
            print(f"instructions: {what}, {name}", file=sys.stderr, flush=True)
            return (more_took - few_took) / COUNTS[what] / 1000

        under_way = {
            name: {what: pool.submit(count, name, what) for what in COUNTS} for name in COUNTED
        }
        return {
            name: {what: one.result() for what, one in by_what.items()}
            for name, by_what in under_way.items()
        }


def _run(valgrind: str, name: str, what: str, count: int, receiver: Receiver) -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [valgrind, "--tool=cachegrind", "--cache-sim=no"]
        command += [f"--cachegrind-out-file={folder}/out", sys.executable, "-m", "bench.one"]
        done = subprocess.run(  # noqa: S603  # found above
            [*command, name, *receiver.target],
            input=f"{what} {count}\n",
            capture_output=True,
            text=True,
            check=False,
            env=environment({"PYTHONHASHSEED": "0"}),
        )
    found = _FOUND.search(done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"{name}, {what}: {done.stderr[-2000:]}")
    return int(found[1].replace(",", ""))
