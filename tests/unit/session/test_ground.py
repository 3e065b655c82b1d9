"""The package as a whole: its version, its names, and what an import costs."""

from __future__ import annotations

import re
from importlib.metadata import entry_points, version

import taskobs
from tests.support.paths import ROOT


def test_the_changelog_begins_with_the_version() -> None:
    """I read what is new in the version that I installed at the top of the changelog."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == version("taskobs")


def test_every_public_name_is_there() -> None:
    """I can use each name that the package says it has."""
    assert set(taskobs.__all__) <= set(dir(taskobs))
    assert all(getattr(taskobs, name) is not None for name in taskobs.__all__)


def test_opentelemetry_finds_the_instrumentor() -> None:
    """I run `opentelemetry-instrument`, and it finds taskobs among the instrumentors."""
    [found] = entry_points(group="opentelemetry_instrumentor", name="taskobs")
    assert found.load() is taskobs.TaskInstrumentor


def test_the_version_is_said_once() -> None:
    """I ask the package for its version, and get what was installed."""
    assert taskobs.__version__ == version("taskobs")
