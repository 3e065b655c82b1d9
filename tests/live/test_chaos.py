"""Nothing is lost with the relay, whatever happens to a worker's processes and to the backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.live.chaos import Plan, Report, misuse
from tests.live.diary import table

if TYPE_CHECKING:
    from tests.live.celery_process import Broker

CALM = Plan(seed=5, tasks=400, seconds=8.0, kills=8, away=((2.0, 5.0),), slow=(), relay_kills=())


def tell(name: str, report: Report) -> None:
    """Print what came of it; pytest shows it with a failure, or with ``-rP``."""
    print(table({name: report.finding}))  # noqa: T201  # see above
    print(f"{report.killed} kills of children, {report.relay_kills} of the relay")  # noqa: T201


@pytest.mark.timeout(240)
def test_the_relay_loses_nothing(redis_broker: Broker, tmp_path: Path) -> None:
    """I kill children and the relay, and take the backend away: all of it arrives, once."""
    report = misuse(Plan(seed=4), tmp_path, redis_broker, relay=True)
    tell("relay", report)
    assert report.troubles == []
    assert report.killed >= 10
    assert report.relay_kills == 2
    assert report.finding.good, report.finding.complaints()


@pytest.mark.timeout(240)
def test_without_the_relay_spans_are_lost(redis_broker: Broker, tmp_path: Path) -> None:
    """I do less of it to a worker without the relay, and see why there is one."""
    report = misuse(CALM, tmp_path, redis_broker, relay=False)
    tell("direct", report)
    assert report.troubles == []
    rows = report.finding.rows
    assert rows["spans that had ended"].missing > 0
    assert rows["spans left open"].once == 0
    assert rows["runs without an event"].good
