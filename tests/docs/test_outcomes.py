"""The page of outcomes has each row on each pool where it can happen, as the contract says."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tests.live.rows import CASES, COLUMNS, PRODUCER, ROWS, Case, Row
from tests.support.paths import ROOT

PAGE = ROOT / "docs/outcomes.md"
EVERY = [pytest.param(row, one, id=f"{row.key}-{one.name}") for row in ROWS for one in row.cases]


def tables() -> Mapping[str, list[list[str]]]:
    """Give the cells of the tables' rows, by the heading that they are under."""
    found: dict[str, list[list[str]]] = {"": []}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
            found[heading] = []
        elif line.startswith("| "):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found[heading].append([cell.strip() for cell in cells])
    return found


def titled(row: Row, case: Case) -> str:
    """Give what the first column of the page's first table says."""
    return row.situation if len(row.cases) == 1 else f"{row.situation}: **{case.name}**"


@pytest.mark.parametrize(("row", "case"), EVERY)
def test_the_table_has_a_mark_for_each_pool(row: Row, case: Case) -> None:
    """I look up a situation, and see for each pool that it was shown, or why it can't happen."""
    page = PAGE.read_text(encoding="utf-8")
    table = tables()["Every outcome, on every pool"]
    [(_, arrives, *marks)] = [cells for cells in table if cells[0] == titled(row, case)]
    assert arrives.split("<br>") == list(case.shapes)
    for column, mark in zip(COLUMNS, marks, strict=True):
        if column in case.columns:
            assert re.fullmatch(r"✓ \w[\w, ]*", mark), column
        elif column != PRODUCER:
            number = re.fullmatch(r"no \((\d+)\)", mark)
            assert number, column
            assert f"\n{number[1]}. {case.elsewhere[column]}\n" in page


@pytest.mark.parametrize(("row", "case"), EVERY)
def test_each_mark_has_its_tests(row: Row, case: Case) -> None:
    """I want to know what a mark rests on: the tests, their broker, and what arrived."""
    told = {cells[1]: cells[2:] for cells in tables()[row.situation] if cells[0] == case.name}
    assert tuple(told) == case.columns
    for broker, arrived, runs, tests in told.values():
        assert broker
        assert re.fullmatch(r"[A-Z](, [A-Z])*", runs)
        assert set(case.shapes) <= set(arrived.split("<br>")) <= {*case.shapes, *case.also}
        names = re.findall(r"`(\w+\.py)::(\w+)[^`]*`", tests)
        assert names
        for file, test in names:
            assert test in (ROOT / "tests/live" / file).read_text(encoding="utf-8")


def test_each_run_names_its_releases() -> None:
    """I see which Python, Celery, OpenTelemetry and Sentry the marks were made with."""
    listed = re.findall(r"^\* [A-Z]: (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed
    for run in listed:
        for name in ("Python", "Celery", "OpenTelemetry", "Sentry SDK"):
            assert re.search(rf"\b{name} \d+\.\d+", run)


def test_every_situation_of_the_table_is_there() -> None:
    """I read the page's rows, and none is named twice."""
    assert len(CASES) == sum(len(row.cases) for row in ROWS)
    assert len({row.situation for row in ROWS}) == len(ROWS)
