"""What the pages say of releases is what pyproject.toml declares."""

from __future__ import annotations

import re
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.paths import ROOT


def floors() -> dict[str, str]:
    """Give the oldest release of each package that taskobs requires."""
    found: dict[str, str] = {}
    for text in requires("taskobs") or ():
        requirement = Requirement(text)
        if requirement.marker is None:
            [floor] = [spec.version for spec in requirement.specifier if spec.operator == ">="]
            found[requirement.name] = floor
    return found


@pytest.mark.parametrize(("package", "floor"), floors().items())
def test_the_page_states_what_is_required(package: str, floor: str) -> None:
    """I look up whether my release of Celery will do."""
    page = (ROOT / "docs/reference/versions.md").read_text(encoding="utf-8")
    told = "the OTLP exporters" if "exporter" in package else f"`{package}`"
    [row] = [line for line in page.splitlines() if line.startswith("|") and told in line]
    assert row.split("|")[2].strip() == floor


def test_what_is_required_was_tested() -> None:
    """The oldest releases in the matrix are the oldest that I may have."""
    page = (ROOT / "docs/matrix.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| 3.10 | oldest |")]
    tested = {Version(word) for row in rows for word in re.findall(r"\d+\.[\w.]+", row)}
    assert {Version(floor) for floor in floors().values()} <= tested
