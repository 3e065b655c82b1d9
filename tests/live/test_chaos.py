"""Nothing is lost uncounted with the relay, whatever happens to the worker and its backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.live.chaos.plan import CLASSIC_WITHOUT_RELAY, WIDE_QUICK, classic, draw
from tests.live.chaos.rows import table
from tests.live.chaos.run import Report, run_plan

if TYPE_CHECKING:
    from tests.live.celery_process import Broker

SEED = 2
"""Draws kills of an idle child and of the relay, a removed lock, 413, 429 and a slow Sentry."""


def tell(name: str, report: Report) -> None:
    """Print what came of it; pytest shows it with a failure, or with ``-rP``."""
    print(table({name: report.finding.rows}))  # noqa: T201  # see above
    print(f"{report.killed} children and {report.relay_kills} relays killed")  # noqa: T201
    print(report.counted.by_reason)  # noqa: T201


def test_the_relay_loses_nothing(redis_broker: Broker, tmp_path: Path) -> None:
    """I break what I can around my worker: all of it arrives, once, or is counted as dropped."""
    report = run_plan(draw(SEED, WIDE_QUICK), tmp_path, redis_broker, relay=True)
    tell("relay", report)
    assert report.troubles == []
    assert report.killed >= 5
    assert report.relay_kills >= 1
    assert report.finding.good, report.finding.complaints()


def test_without_the_relay_spans_are_lost(redis_broker: Broker, tmp_path: Path) -> None:
    """I do less of it to a worker without the relay, and see why there is one."""
    report = run_plan(classic(5, CLASSIC_WITHOUT_RELAY), tmp_path, redis_broker, relay=False)
    tell("direct", report)
    assert report.troubles == []
    rows = report.finding.rows
    assert rows["spans that had ended"].missing > 0
    assert rows["spans left open"].once == 0
    assert rows["runs without an event"].good


def test_a_seed_repeats_its_faults() -> None:
    """I run a seed again, and the same happens at the same time."""
    plans = [draw(seed, WIDE_QUICK) for seed in (SEED, SEED, SEED + 1)]
    assert plans[0] == plans[1]
    assert plans[0].faults != plans[2].faults
