"""The tutorial is followed, command by command, and the page shows what it says."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.paths import ROOT
from tools.newcomer import TUTORIAL, Tutorial, environment, follow


def test_the_tutorial_leads_to_the_picture(tmp_path: Path) -> None:
    """I type what the page says, and see two traces: one order went well, one failed, and why."""
    env = environment(Path(sys.executable).parent)
    took = follow(Tutorial.read(ROOT / TUTORIAL), tmp_path, env)
    assert [*took][-1] == "the failed one is on the page, with its error"
