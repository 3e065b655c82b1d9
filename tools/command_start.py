"""Compares what Celery's commands take with ``taskobs.init()`` and without: their CPU time.

``python -m tools.command_start [rounds]`` runs each command of an app with an endpoint and a DSN,
and of the same app without taskobs, in turns, so that a busy moment hits both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from taskobs.testing.receiver import Receiver

COMMANDS: Final = {"purge": ("purge", "-f"), "call": ("call", "add")}
_APP: Final = "command_start_app"
_SOURCE: Final = """
import os
from celery import Celery
app = Celery("shop", broker="memory://localhost", backend="cache+memory://")
if os.environ.get("SHOP_IS_OBSERVED"):
    import taskobs
    taskobs.init()
"""
_ROUNDS: Final = 20


def measure(command: Sequence[str], rounds: int) -> tuple[list[float], list[float]]:
    """Return the CPU seconds of each run without taskobs, and of each run with it."""
    without: list[float] = []
    observed: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Receiver() as receiver:
        Path(folder, f"{_APP}.py").write_text(_SOURCE, encoding="utf-8")
        # Installed packages are compiled; what a checkout has may not be. Coverage would take its
        # time, too, for taskobs alone.
        foreign = ("PYTHONDONTWRITEBYTECODE", "COVERAGE_")
        env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        env |= {"PYTHONPATH": os.pathsep.join([folder, *sys.path])}
        used = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "SENTRY_DSN": receiver.dsn}
        with_taskobs = {**env, **used, "SHOP_IS_OBSERVED": "1"}
        for one in (env, with_taskobs):  # once for nothing, which compiles all modules
            _seconds(command, one, folder)
        for _ in range(rounds):
            without.append(_seconds(command, env, folder))
            observed.append(_seconds(command, with_taskobs, folder))
    return without, observed


def _seconds(command: Sequence[str], env: dict[str, str], folder: str) -> float:
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", _APP, *command],
        env=env,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return used.ru_utime + used.ru_stime


def _shown(seconds: list[float]) -> str:
    low, middle, high = quantiles(seconds, n=4)
    return f"{middle * 1e3:4.0f} ms ({low * 1e3:.0f} to {high * 1e3:.0f})"


def main() -> None:
    """Print the quartiles of both, and their ratio, for each command."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else _ROUNDS
    for name, command in COMMANDS.items():
        without, observed = measure(command, rounds)
        ratio = median(observed) / median(without)
        print(f"celery {name}: without {_shown(without)}, with {_shown(observed)}, {ratio:.2f}")


if __name__ == "__main__":
    main()
