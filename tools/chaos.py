"""Run a worker under faults, one seed after the other, and print one table of what arrived.

Each seed draws its own mixture: children and the relay killed; the relay stopped; its socket, spool
and lock removed; the backend gone, slow, busy (429), or refusing large bodies (413); a stop while
there is no backend. `--classic` is the plan of the table in docs/relay.md: children and the relay
killed, the backend gone and slow. Needs Redis. Exit status: 0 if with the relay everything arrived
once, or was counted as dropped; 1 if not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.live import services  # noqa: E402  # found from ROOT
from tests.live.celery_process import Broker  # noqa: E402  # found from ROOT
from tests.live.chaos import plan as plans  # noqa: E402  # found from ROOT
from tests.live.chaos.rows import Rows, summed, table  # noqa: E402  # found from ROOT
from tests.live.chaos.run import Report, run_plan  # noqa: E402  # found from ROOT

DIRECT, RELAY = "direct", "relay"
FEW: Final = 4
"""Columns of the table: of more runs, their sums are shown."""


class Case(NamedTuple):
    """One run."""

    seed: int
    pool: str
    mode: str

    def __str__(self) -> str:
        return f"{self.mode}, {self.pool}, seed {self.seed}"


Reports = dict[Case, Report]


def main() -> int:
    """Run the plans that were asked for, and print what came of them."""
    chosen = _arguments().parse_args()
    kept = chosen.keep or Path(tempfile.mkdtemp(prefix="taskobs-chaos-"))
    kept.mkdir(parents=True, exist_ok=True)
    _say(f"logs and journals: {kept}")
    modes = [chosen.only] if chosen.only else [DIRECT, RELAY]
    cases = [Case(*one) for one in product(chosen.seeds, chosen.pool, modes)]
    begun = time.monotonic()
    with services.redis(kept) as redis:
        reports = {case: _run(case, redis, kept, chosen) for case in cases}
    _print_tables(reports)
    _say(f"\n{time.monotonic() - begun:.0f} s in all")
    return int(not all(one.good for case, one in reports.items() if case.mode == RELAY))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pool", choices=["prefork", "spawn"], nargs="+", default=["prefork"])
    parser.add_argument("--only", choices=[DIRECT, RELAY], help="one of the two pipelines")
    parser.add_argument("--quick", action="store_true", help="the shorter plan of the live tests")
    parser.add_argument("--classic", action="store_true", help="the plan of docs/relay.md's table")
    sending = "with --classic: kill the relay at these times, too, while it sends"
    parser.add_argument(
        "--kill-sending", type=float, nargs="*", default=[], metavar="SECOND", help=sending
    )
    names = [kind.name for kind in plans.FaultKind]
    parser.add_argument(
        "--faults",
        choices=names,
        nargs="+",
        metavar="NAME",
        default=names,
        help="leave out all others; the names are in tests/live/chaos/plan.py",
    )
    parser.add_argument("--keep", type=Path, help="a folder for logs and journals")
    return parser


def _run(case: Case, redis: services.Redis, kept: Path, chosen: argparse.Namespace) -> Report:
    plan = _plan(case.seed, chosen)
    faults = [fault for fault in plan.faults if fault.kind.name in chosen.faults]
    plan = replace(plan, faults=faults)
    folder, url = kept / f"{case.seed}-{case.pool}-{case.mode}", redis.url()
    folder.mkdir()
    _say(f"\n{case}: {plan}")
    broker = Broker("redis", url, url)
    report = run_plan(plan, folder, broker, relay=case.mode == RELAY, pool=case.pool, say=_say)
    _say(_line(case, report))
    if case.mode == RELAY:
        _say(report.finding.complaints())
    return report


def _plan(seed: int, chosen: argparse.Namespace) -> plans.Plan:
    if chosen.classic:
        sizes = plans.CLASSIC_QUICK if chosen.quick else plans.CLASSIC_LONG
        return plans.classic(seed, sizes, chosen.kill_sending)
    return plans.draw(seed, plans.WIDE_QUICK if chosen.quick else plans.WIDE_LONG)


def _line(case: Case, report: Report) -> str:
    dropped = ", ".join(f"{n} {kind}s" for kind, n in sorted(report.counted.by_kind.items()))
    return (
        f"{case}: {'good' if report.good else 'NOT GOOD'}; "
        f"{report.seconds:.0f} s, {report.killed} children and {report.relay_kills} relays killed, "
        f"counted as dropped: {dropped or 'none'}; {'; '.join(report.troubles) or 'no trouble'}"
    )


def _print_tables(reports: Reports) -> None:
    _say("")
    for case, report in reports.items():
        _say(_line(case, report))
    _say("\n" + table(_columns(reports)))
    reasons: Counter[tuple[str, str]] = Counter()
    for report in reports.values():
        reasons.update(report.counted.by_reason)
    for (kind, reason), number in sorted(reasons.items()):
        _say(f"dropped and counted: {number} {kind}s: {reason}")


def _columns(reports: Reports) -> dict[str, Rows]:
    """Return a column for each run; of many, the sums over their seeds."""
    if len(reports) <= FEW:
        return {str(case): report.finding.rows for case, report in reports.items()}
    names = dict.fromkeys((case.mode, case.pool) for case in reports)
    return {
        f"{mode}, {pool}": summed(
            [one.finding.rows for case, one in reports.items() if (case.mode, case.pool) == name]
        )
        for name in names
        for mode, pool in [name]
    }


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
