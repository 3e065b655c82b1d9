"""A longer chaos test: thousands of tasks, children and relay killed, the backend away and slow.

Runs the same plan without the relay and with it, several seeds, and prints both figures. Needs
Redis. Exit status: 0 if with the relay all that was promised arrived, 1 if not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.live import chaos, services  # noqa: E402  # found from ROOT
from tests.live.celery_process import Broker  # noqa: E402  # found from ROOT
from tests.live.diary import table  # noqa: E402  # found from ROOT

LONG: Final = chaos.Plan(
    seed=0,
    tasks=6000,
    seconds=120.0,
    kills=80,
    away=((10.0, 20.0), (50.0, 75.0)),
    slow=((20.0, 35.0, 0.5), (90.0, 110.0, 0.3)),
    relay_kills=(15.0, 30.0, 60.0, 85.0),
)


def main() -> int:
    """Run the plans that were asked for, and print what came of them."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="the plan of the live tests")
    parser.add_argument("--only", choices=["direct", "relay"], help="one of the two pipelines")
    parser.add_argument("--rude", type=float, nargs="*", default=[], metavar="SECOND")
    parser.add_argument("--keep", type=Path, help="a folder for logs and diaries")
    chosen = parser.parse_args()
    plan = chaos.Plan(seed=0) if chosen.quick else LONG
    plan = replace(plan, rude_kills=tuple(chosen.rude))
    kept = chosen.keep or Path(tempfile.mkdtemp(prefix="taskobs-chaos-"))
    kept.mkdir(parents=True, exist_ok=True)
    print(f"logs and diaries: {kept}")
    with services.redis(kept) as redis:
        return max(_compare(replace(plan, seed=seed), redis, kept, chosen) for seed in chosen.seeds)


def _compare(
    plan: chaos.Plan, redis: services.Redis, kept: Path, chosen: argparse.Namespace
) -> int:
    reports: dict[str, chaos.Report] = {}
    for mode in [chosen.only] if chosen.only else ["direct", "relay"]:
        folder, url = kept / f"{mode}-{plan.seed}", redis.url()
        folder.mkdir()
        print(f"\nseed {plan.seed}, {mode}: {plan.tasks} tasks", flush=True)
        reports[mode] = chaos.misuse(
            plan, folder, Broker("redis", url, url), relay=mode == "relay", say=_say
        )
    print("\n" + table({mode: report.finding for mode, report in reports.items()}))
    for mode, report in reports.items():
        print(
            f"\n{mode}: {report.seconds:.0f} s, {report.killed} kills of children, "
            f"{report.relay_kills} of the relay; {'; '.join(report.troubles) or 'no trouble'}"
        )
    if "relay" not in reports:
        return 0
    report = reports["relay"]
    print(report.finding.complaints(20))
    return 0 if report.finding.good and not report.troubles else 1


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
