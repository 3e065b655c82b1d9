"""What `make bench` writes of the instructions that it has counted."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("redis", reason="the benchmark's workers need celery[redis]")

from bench import page
from bench.results import Results

COUNTS: dict[str, dict[str, float]] = {
    "bare": dict.fromkeys(page.WHATS, 100.0),
    "floor": dict.fromkeys(page.WHATS, 200.0),
    "unsampled, relay": dict.fromkeys(page.WHATS, 150.0),
    "spans + Sentry, relay": {"publish": 190.0, "run": 210.0, "spans": 130.0, "fail": 250.0},
}


def row(name: str) -> list[str]:
    """Read a line of the table."""
    table = page.sections(Results("", instructions=COUNTS))["instructions"]
    [line] = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_what_is_added_is_in_floors_beside_its_aim() -> None:
    """I read whether a release costs more than it should; what does is in bold."""
    publish, run = row("spans + Sentry, relay")[:3], row("spans + Sentry, relay")[3:6]
    assert publish == ["190", "0.90", "1.00"]
    assert run == ["210", "**1.10**", "1.00"]
    assert row("unsampled, relay")[:6] == ["150", "0.50", "", "150", "0.50", "0.55"]
    assert row("floor")[:3] == ["200", "1.00", ""]


def test_counting_leaves_the_measured_times_on_the_page(tmp_path: Path) -> None:
    """I count on a busy machine, and write that: the tables of times stay as they are."""
    saved = tmp_path / "results.json"
    Results("", instructions=COUNTS).save(saved)
    text = "<!-- instructions -->\nold\n<!-- /instructions -->\n<!-- single -->\nkept\n"
    written = page.filled(text, page.sections(Results.load(saved)))
    assert "old" not in written
    assert written.endswith("<!-- single -->\nkept\n")
