"""The page about many machines has what `make scale` writes, and settings that there are."""

from __future__ import annotations

import re
from typing import Final

import pytest

from taskobs.config.settings import declared
from tests.docs.pages import section
from tests.support.paths import ROOT
from tools.scale import paper
from tools.scale.page import TITLES
from tools.scale.workers import FEW_BUCKETS, NAMED, ONE, SETUPS

PAGE: Final = ROOT / "docs/scale.md"
PARTS: Final = (
    *("machine", "worker", "producer", "metrics", "broker"),
    *("relay", "collector", "steps", "costs", "paper"),
)
STANDARD: Final = re.compile(r"OTEL_\w+(=\w+)?")


def part(name: str) -> str:
    """Give what stands between the markers of a part."""
    text = PAGE.read_text(encoding="utf-8")
    return text.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- /{name} -->")[0]


def first_column(name: str) -> list[str]:
    """Give what the rows of a part's table begin with."""
    return [line.split(" | ")[0].removeprefix("| ") for line in part(name).splitlines()[2:]]


@pytest.mark.parametrize("name", PARTS)
def test_each_part_is_written(name: str) -> None:
    """I read the page, and nothing that `make scale ARGS=--write` writes is missing."""
    assert part(name).strip()


def test_the_tables_are_of_what_is_measured_today() -> None:
    """I run `make scale`, and get the rows that the page has."""
    assert first_column("worker") == list(SETUPS)
    assert first_column("producer") == list(SETUPS)
    assert first_column("metrics") == [ONE, NAMED, FEW_BUCKETS]
    assert first_column("collector") == list(TITLES.values())
    head = part("paper").splitlines()[0].strip("| ").split(" | ")
    assert head == [load.title for load in paper.LOADS]


def test_the_plot_is_there() -> None:
    """I see the knee, drawn as text that can be searched."""
    plot = (ROOT / "docs/scale.svg").read_text(encoding="utf-8")
    assert "![" in PAGE.read_text(encoding="utf-8").partition("(scale.svg)")[0]
    assert all(title in plot for title in TITLES.values())


def test_each_setting_for_it_is_one_that_there_is() -> None:
    """I look up a setting of the page in the reference, and find it."""
    settings = {name for pair in declared() for name in (pair[0], pair[1].variable)}
    table = section(PAGE, "Settings for it")
    rows = re.findall(r"^\| (`.+?) \|", table.partition("### ")[0], re.MULTILINE)
    named = [name.partition("=")[0] for row in rows for name in re.findall(r"`([\w=]+)`", row)]
    assert len(named) > len(rows) > 8
    assert [name for name in named if name not in settings and not STANDARD.match(name)] == []
