"""Programs of the pages and the examples, run without a broker and without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from taskobs.testing.receiver import Receiver

# A broker inside of the process, and no connection to anything but the loopback.
PREAMBLE: Final = """
import sys

def _refuse(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        assert arguments[1][0] in ("127.0.0.1", "::1", "localhost"), arguments[1]

sys.addaudithook(_refuse)
sys.path.insert(0, "")
"""
PATIENCE: Final = 240.0


def environment(receiver: Receiver) -> dict[str, str]:
    """Give the variables of a user whose telemetry goes to the receiver."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")
    }
    return variables | {
        "CELERY_BROKER_URL": "memory://",
        "NO_PROXY": "127.0.0.1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "SENTRY_DSN": receiver.dsn,
        "TASKOBS_SHUTDOWN_TIMEOUT": "30",
        "TASKOBS_STRICT": "1",
    }


def run_python(source: str, folder: Path, receiver: Receiver) -> str:
    """Run a program in ``folder`` and give what it prints; it must succeed."""
    return run([sys.executable, "-c", PREAMBLE + source], folder, receiver)


def run(command: list[str], folder: Path, receiver: Receiver) -> str:
    """Run a command in ``folder`` and give what it prints; it must succeed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(receiver),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
