"""The page about releases says what pyproject.toml requires, and leads to what it promises."""

from __future__ import annotations

import re
from importlib.metadata import metadata, requires
from typing import Final

from packaging.requirements import Requirement

from tests.docs.pages import section
from tests.support.paths import ROOT

PAGE: Final = ROOT / "docs/reference/releases.md"


def test_the_page_states_each_requirement() -> None:
    """I look up whether my releases will do, and the page says what the package says."""
    table = section(PAGE, "What is required")
    rows = re.findall(r"^\| `?([\w-]+)`? \| ([<>=].*) \|$", table, re.MULTILINE)
    found = {"Python": metadata("taskobs")["Requires-Python"]}
    for requirement in map(Requirement, requires("taskobs") or ()):
        if requirement.marker is None:
            found[requirement.name] = str(requirement.specifier)
    assert dict(rows) == found


def test_the_long_runs_are_those_of_a_release() -> None:
    """I read what a release went through, and it is what its maintainers are told to run."""
    steps = section(ROOT / "CONTRIBUTING.md", "A release")
    named = {*re.findall(r"`(make [\w-]+)`", section(PAGE, "How a release is made"))}
    assert named == {*re.findall(r"`(make [\w-]+)`", steps)} - {"make build"}
