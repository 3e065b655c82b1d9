"""Dashboards and rules against a real Prometheus that has scraped real monitors."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("prometheus_client")  # the extra `prometheus`

from taskobs.dashboards.queues import QUEUES
from taskobs.dashboards.writing import CONFIG, RULE_TESTS, RULES, write
from tests.live import services
from tests.live.conftest import skip_if_missing
from tests.live.monitor import Monitors
from tests.live.process import LIMIT, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.live.celery_process import Broker, LiveApp


def filled(expression: str) -> str:
    """Put what a dashboard chooses by default in the place of its variables."""
    chosen = {"$job": ".*", "$queue": ".*", "$__rate_interval": "1m"}
    for variable, value in chosen.items():
        expression = expression.replace(variable, value)
    return expression


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", RULES),
        ("test", "rules", RULE_TESTS),
        ("check", "config", CONFIG),
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_rules(command: tuple[str, ...], tmp_path: Path) -> None:
    """Prometheus' own tool reads the rules, and runs their tests."""
    with skip_if_missing():
        promtool = services.find_program(
            "promtool", variable="TASKOBS_PROMTOOL", install="apt-get install prometheus"
        )
    write(tmp_path)
    done = subprocess.run(
        [promtool, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_every_panel_has_data(live: LiveApp, redis_broker: Broker, tmp_path: Path) -> None:
    """I run two monitors and open the dashboard: each panel is filled, and nothing counts twice."""
    producer = live.producer(redis_broker)
    producer.run("for _ in range(3): app.add.apply_async((1, 2), priority=9)")
    monitors = Monitors(live, redis_broker, {})
    write(tmp_path)
    with (
        monitors.start("--port", "0", "--interval", "0.5", name="one") as one,
        monitors.start("--port", "0", "--interval", "0.5", name="two") as two,
        skip_if_missing(),
    ):
        targets = [monitor.url.removeprefix("http://") for monitor in (one, two)]
        with services.prometheus(tmp_path, targets, [tmp_path / RULES]) as prometheus:
            both = "count(celery_queue_messages) == 4"
            assert wait_until(lambda: bool(prometheus.query(both)), timeout=LIMIT)
            empty = [
                (panel.title, query.expression)
                for panel in QUEUES.panels
                for query in panel.queries
                if not prometheus.query(filled(query.expression))
            ]
            assert empty == []
            by_title = {panel.title: panel for panel in QUEUES.panels}
            for title, value in (("Ready", "3"), ("Queues without consumers", "1")):
                expression = filled(by_title[title].queries[0].expression)
                [found] = prometheus.query(expression)
                assert found["value"][1] == value, title
            recorded = 'queue:celery_queue_messages:max{celery_state="ready"} == 3'
            assert wait_until(lambda: bool(prometheus.query(recorded)), timeout=LIMIT)
            states = {rule["name"]: rule["health"] for rule in prometheus.rules()}
            assert set(states.values()) == {"ok"}, states
            waiting = 'ALERTS{alertname="CeleryQueueWithoutConsumers", celery_queue="celery"}'
            assert wait_until(lambda: bool(prometheus.query(waiting)), timeout=LIMIT)
