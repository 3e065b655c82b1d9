"""Run the live tests and write ``docs/outcomes.md``: what arrived for each row, on each pool.

What the tests see goes to ``build/outcomes.jsonl``. Further arguments go to pytest: together with
``--merge``, some tests can be run anew, and the rest is kept.

Exit status: 0 if all tests passed and the page was written; 1 if a test failed; 2 if a cell of the
table is empty: then the page stays as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.live.rows import CASES, COLUMNS, PRODUCER, ROWS, Case, Record, Row

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "outcomes.md"
RECORDS: Final = ROOT / "build" / "outcomes.jsonl"
FOLDER: Final = "tests/live/"
HEAD: Final = """\
# Every outcome, on every pool

<!-- Written by `make outcomes`, from what the live tests saw. -->

Each row is a situation, each cell a real worker with that pool, over a real broker, and a producer
in another process; *no worker* is the process that publishes, alone. A test caused the situation,
and what arrived by OTLP and by Sentry's protocol was held to the row: of each task its publish
spans, its run spans with their outcomes, and the events tagged with it.
[What was run with what](#what-was-run-with-what) is below.

✓: it arrived as the row says, over the broker that is named (`both`: Redis and RabbitMQ).
no: it can't happen there, for the reason with that number.

"""


@dataclass(frozen=True)
class Cell:
    """What the tests saw of one case on one pool."""

    brokers: tuple[str, ...]
    arrived: tuple[str, ...]
    tests: tuple[str, ...]
    versions: tuple[str, ...]

    @property
    def over(self) -> str:
        """The brokers, in a word or two."""
        kinds = {broker.partition(" (")[0] for broker in self.brokers}
        return "both" if {"Redis", "RabbitMQ"} <= kinds else ", ".join(self.brokers)


Cells = Mapping[tuple[str, str, str], Cell]


def run_tests(jobs: int, more: Sequence[str]) -> int:
    """Run the live ring, showing its progress; give pytest's exit status."""
    command = [sys.executable, "-m", "pytest", "-n", str(jobs), f"--outcomes={RECORDS}"]
    chosen = [one for one in more if one.startswith("tests")] or [FOLDER]
    command += [*chosen, *(one for one in more if one not in chosen)]
    print(f"outcomes: {' '.join(command[1:])}", flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def cells() -> Cells:
    """Read what the tests saw; of a test that ran twice, what it saw last."""
    lines = RECORDS.read_text(encoding="utf-8").splitlines() if RECORDS.exists() else []
    records = [Record(**json.loads(line)) for line in lines]
    last = {(told.test, told.row, told.case, *told.versions.values()): told for told in records}
    grouped: defaultdict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for told in last.values():
        if (told.row, told.case) in CASES:  # it may have had another name when --merge began
            grouped[told.row, told.case, told.column].append(told)
    return {key: merged(CASES[key[0], key[1]], told) for key, told in grouped.items()}


def merged(case: Case, records: Sequence[Record]) -> Cell:
    """Make one cell of what several tests saw."""
    arrived = {shape for told in records for shape in told.arrived}
    return Cell(
        brokers=tuple(sorted({told.broker for told in records}, reverse=True)),
        arrived=tuple(shape for shape in (*case.shapes, *case.also) if shape in arrived),
        tests=tuple(sorted({told.test.removeprefix(FOLDER) for told in records})),
        versions=tuple(sorted({released(told.versions) for told in records})),
    )


def released(versions: Mapping[str, str]) -> str:
    """Name the releases of one run."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def missing(found: Cells) -> list[str]:
    """List the cells that are empty, or lack something that the row promises."""
    wanted = [(*key, column) for key, case in CASES.items() for column in case.columns]
    gaps: list[str] = []
    for row, case, column in wanted:
        cell = found.get((row, case, column))
        lacking = set(CASES[row, case].shapes) - set(cell.arrived if cell else ())
        if lacking:
            gaps.append(f"{row} / {case} on {column}: {'; '.join(sorted(lacking))}")
    return gaps


def page(found: Cells) -> str:
    """Give the whole page."""
    reasons = list(dict.fromkeys(why for case in CASES.values() for why in case.elsewhere.values()))
    runs = sorted({version for cell in found.values() for version in cell.versions})
    lines = [*matrix(found, reasons), "", *(f"{n}. {why}" for n, why in enumerate(reasons, 1))]
    lines += ["", "## What was run with what", ""]
    lines += [f"* {letter(runs, run)}: {run}" for run in runs]
    for row in ROWS:
        lines += ["", *details(row, found, runs)]
    return HEAD + "\n".join(lines) + "\n"


def letter(runs: Sequence[str], run: str) -> str:
    """Name a set of releases."""
    return chr(ord("A") + runs.index(run))


def matrix(found: Cells, reasons: Sequence[str]) -> Iterator[str]:
    """Give the lines of the table of rows and pools."""
    heads = ["situation", "what arrives of a task", *COLUMNS]
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in ROWS:
        for case in row.cases:
            name = row.situation if len(row.cases) == 1 else f"{row.situation}: **{case.name}**"
            told = [name, "<br>".join(case.shapes)]
            told += [mark(row, case, column, found, reasons) for column in COLUMNS]
            yield f"| {' | '.join(told)} |"


def mark(row: Row, case: Case, column: str, found: Cells, reasons: Sequence[str]) -> str:
    """Give one cell of the table."""
    if column in case.columns:
        return f"✓ {found[row.key, case.name, column].over}"
    if column == PRODUCER:
        return ""
    return f"no ({reasons.index(case.elsewhere[column]) + 1})"


def details(row: Row, found: Cells, runs: Sequence[str]) -> Iterator[str]:
    """Give what the contract says of a row, and each of its cells with its tests."""
    yield f"### {row.situation}"
    yield ""
    told = {"publish span": row.publish, "run span": row.runs, "Sentry": row.sentry}
    yield ". ".join(f"{what}: {said}" for what, said in told.items() if said) + "."
    yield ""
    yield "| case | pool | broker | what arrived | with | tests |"
    yield "|---|---|---|---|---|---|"
    for case in row.cases:
        for column in case.columns:
            cell = found[row.key, case.name, column]
            tests = " ".join(f"`{test}`" for test in cell.tests).replace("|", "\\|")
            labels = ", ".join(letter(runs, run) for run in cell.versions)
            ends = "<br>".join(cell.arrived)
            over = ", ".join(cell.brokers)
            yield f"| {case.name} | {column} | {over} | {ends} | {labels} | {tests} |"


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--merge", action="store_true", help="keep what earlier runs saw")
    parser.add_argument("--no-run", action="store_true", help="only write the page anew")
    twice = 2 * (os.cpu_count() or 2)  # live tests mostly wait
    parser.add_argument("--jobs", type=int, default=twice, help=f"test processes ({twice})")
    chosen, more = parser.parse_known_args()
    RECORDS.parent.mkdir(exist_ok=True)
    if not (chosen.merge or chosen.no_run):
        RECORDS.unlink(missing_ok=True)
    status = 0 if chosen.no_run else run_tests(chosen.jobs, more)
    found = cells()
    if gaps := missing(found):
        print(f"outcomes: {len(gaps)} of {len(found) + len(gaps)} cells are empty:")
        print("\n".join(f"   {gap}" for gap in gaps))
        return 2
    PAGE.write_text(page(found), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: wrote {len(found)} cells")
    if status:
        print("outcomes: some tests failed; the page tells of those that passed", file=sys.stderr)
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
