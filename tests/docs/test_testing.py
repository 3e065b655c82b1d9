"""The page about tests shows parts of a test-suite, which passes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Final

import pytest

from tests.docs.pages import Block, blocks, first_column, section
from tests.support.paths import ROOT

PAGE: Final = ROOT / "docs/how-to/testing.md"
EXAMPLE: Final = ROOT / "examples/testing_app"
BLOCKS: Final = [block for block in blocks(PAGE) if block.language == "python"]
PATIENCE: Final = 240.0


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_part_of_the_suite(block: Block) -> None:
    """I look up what the page shows in the example, and find the same lines."""
    _, _, shown = block.text.partition("\n")
    assert shown.strip() in (EXAMPLE / block.path).read_text(encoding="utf-8")


def test_the_suite_passes() -> None:
    """I run the example's tests: with a worker in a thread, and with one in another process."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    theirs = ("COVERAGE_", "PYTEST_")
    variables = {name: text for name, text in os.environ.items() if not name.startswith(theirs)}
    done = subprocess.run(
        command,
        cwd=EXAMPLE,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^9 passed", done.stdout, re.MULTILINE), done.stdout


def test_every_setting_is_on_the_page() -> None:
    """I read which settings of pytest there are, and find each with its default."""
    source = (ROOT / "taskobs/testing/pytest_plugin.py").read_text(encoding="utf-8")
    declared = re.findall(r'^_\w+: Final = "(taskobs_(?:strict|timeout))"$', source, re.MULTILINE)
    assert sorted(declared) == ["taskobs_strict", "taskobs_timeout"]
    shown = first_column(section(PAGE, "Strict tests").replace("`, `--taskobs-strict`", "`"))
    assert sorted(shown) == sorted(declared)
