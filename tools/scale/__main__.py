"""``make scale``: what a worker costs its backend, and a Collector up to its knee.

A real prefork worker with its relay runs 1,000 tasks for each set-up against a backend that
counts; one relay's sender sends as fast as it can to a backend that takes its time; simulated
relays send to a real OpenTelemetry Collector, faster and faster, until it no longer keeps up.
Needs Redis and the Collector of .ci/services. Under four minutes. On a machine with other things to
do, bytes and CPU times hold, and rates don't.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from bench.children import ROOT
from bench.page import filled
from bench.workers import MissingRedisError
from tests.live.services import Missing, collector
from tools.scale import ceiling, knee, page, plot, workers
from tools.scale.results import Results, today

PAGE: Final = ROOT / "docs/scale.md"
PLOT: Final = ROOT / "docs/scale.svg"


def measure() -> Results:
    """Measure all parts."""
    collector()  # raises before minutes have passed
    return Results(today(), workers.measure(), ceiling.measure(), knee.measure(workers.sample()))


def main() -> int:
    """Measure, print, and write the page if asked."""
    parser = argparse.ArgumentParser(prog="make scale", description=__doc__)
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--load", type=Path, metavar="FILE", help="measure nothing: read this")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} and its plot")
    chosen = parser.parse_args()
    try:
        results = Results.load(chosen.load) if chosen.load else measure()
    except (MissingRedisError, Missing) as missing:
        print(missing, file=sys.stderr)
        return 1
    if chosen.save:
        results.save(chosen.save)
    parts = page.sections(results)
    print("\n\n".join(parts.values()))
    if chosen.write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), parts), encoding="utf-8")
        plot.draw(results.collector, PLOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
