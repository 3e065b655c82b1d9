"""What a process holds does not grow with what it has run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "tools" / "soak.py"


def test_memory_is_flat() -> None:
    """My worker runs tasks, failing ones too, and each of them leaves nothing behind."""
    command = [sys.executable, str(SOAK), "--runs", "4000", "--every", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "memory is flat" in done.stdout
