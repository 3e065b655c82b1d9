"""What contributors and CI run is one thing, and it is as the pages say."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import ROOT


def test_a_source_tree_does_not_pass_for_an_installed_wheel() -> None:
    """I see unit tests pass in `make build`, and it was the wheel that they ran on."""
    command = [sys.executable, "-m", "pytest", "--installed", "tests/unit/test_api.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 4  # pytest's own, for wrong usage
    assert f"taskobs would be imported from {ROOT / 'taskobs' / '__init__.py'}" in done.stderr
