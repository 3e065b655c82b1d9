"""Each how-to guide ends with how to verify it, and what to do if it doesn't work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import RUN_WHOLE, section
from tests.support.paths import ROOT

FOLDER = ROOT / "docs/how-to"
INDEX = FOLDER / "index.md"
IN_TABLES: Final = sorted({*RUN_WHOLE, "docs/how-to/from-ddtrace.md"})
"""Guides whose troubles are a table of symptom, cause and the line that mends it."""


def guides() -> list[Path]:
    """Find the guides: those of the folder, and those of docs/ that its index names."""
    named = re.findall(r"^\.\./([\w-]+)$", INDEX.read_text(encoding="utf-8"), re.MULTILINE)
    own = [path for path in FOLDER.glob("*.md") if path != INDEX]
    return sorted([*own, *(ROOT / "docs" / f"{name}.md" for name in named)])


@pytest.mark.parametrize("guide", guides(), ids=lambda path: path.name)
def test_a_guide_ends_with_verify_and_troubleshooting(guide: Path) -> None:
    """I have followed a guide, and read how to see that it works, and what to do if not."""
    headings = re.findall(r"^## (.+)$", guide.read_text(encoding="utf-8"), re.MULTILINE)
    assert "Verify" in headings
    assert headings[-1] == "Troubleshooting"


def test_the_readme_is_read_in_five_minutes() -> None:
    """I read the README from top to bottom, and it is what a newcomer needs."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


def rows(page: Path) -> list[list[str]]:
    """Give the cells of the table of troubles."""
    lines = [line for line in section(page, "Troubleshooting").splitlines() if line.strip()]
    assert all(line.startswith("|") for line in lines)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("name", IN_TABLES)
def test_a_trouble_has_its_cause_and_the_line_that_mends_it(name: str) -> None:
    """I find my symptom, and beside it what to type or write."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.search(r"^\*\*Goal:\*\* ", text, re.MULTILINE)
    found = rows(ROOT / name)
    assert len(found) >= 5
    for symptom, cause, line in found:
        assert symptom
        assert cause
        assert "`" in line, symptom
