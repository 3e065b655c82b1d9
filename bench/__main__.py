"""``make bench``: what observing a task costs, each way of observing it.

Three parts: one process (publish, run, failing run), prefork workers over Redis (throughput, CPU
time by process, memory), and starting (imports, ``init()``, the time until a worker is ready).
All set-ups run interleaved and export to a live receiver in another process; the figures are
medians over the rounds. Read them as ratios, and measure on an idle machine. A fourth part, only
if asked for, counts the instructions of one process, which a busy machine does not change.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bench import instructions, page, plot, single, starting, workers
from bench.children import ROOT
from bench.peers import installed
from bench.results import Results, machine

PAGE: Final = ROOT / "docs/performance.md"
PLOT: Final = ROOT / "docs/performance.svg"
TIMED: Final = ("single", "workers", "starting")
PARTS: Final = (*TIMED, "instructions")


def measure(parts: list[str], *, full: bool, peers: Iterable[str]) -> Results:
    """Measure these parts, and these peers beside the set-ups that are always measured."""
    results = Results(machine())
    if "single" in parts:
        results.single = single.measure(25 if full else 7, peers)
    if "workers" in parts:
        results.workers = workers.measure(7 if full else 3, 3000 if full else 1500, peers)
    if "starting" in parts:
        results.starting = starting.measure(7 if full else 3)
    if "instructions" in parts:
        results.instructions = instructions.measure()
    return results


def main() -> int:
    """Measure, print, and write the page if asked."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="more rounds")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(TIMED))
    parser.add_argument("--peers", action="store_true", help="also those of PEERS, if installed")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--load", type=Path, metavar="FILE", help="measure nothing: read this")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} and its plot")
    chosen = parser.parse_args()
    try:
        results = (
            Results.load(chosen.load)
            if chosen.load
            else measure(
                chosen.only, full=chosen.full, peers=tuple(installed()) if chosen.peers else ()
            )
        )
    except (workers.MissingRedisError, instructions.MissingValgrindError) as missing:
        print(missing, file=sys.stderr)
        return 1
    if chosen.save:
        results.save(chosen.save)
    parts = page.sections(results)
    print("\n\n".join(parts.values()))
    if chosen.write:
        PAGE.write_text(page.filled(PAGE.read_text(encoding="utf-8"), parts), encoding="utf-8")
        if all(getattr(results, part) for part in TIMED):
            plot.draw(results, PLOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
