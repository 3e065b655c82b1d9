"""Dashboards and rules against a real Prometheus that has scraped a real worker and monitors."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("prometheus_client")  # the extra `prometheus`

from taskobs.dashboards.panels import Variable
from taskobs.dashboards.writing import CONFIG, DASHBOARDS, RULE_TESTS, RULES, write
from tests.live import services
from tests.live.celery_process import SHOP
from tests.live.conftest import skip_if_missing
from tests.live.dashboards import choices, empty_panels, filled
from tests.live.monitor import Monitors
from tests.live.process import LIMIT, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.live.celery_process import Broker, LiveApp
    from tests.live.services import Prometheus

TASK = f"{SHOP}.exhausted"
ROUND = """
for _ in range(5):
    app.add.delay(1, 2)
    app.fail.delay()
    app.expected.delay()
    app.exhausted.delay()
app.exhausted.apply_async(expires=-10)
"""
"""Runs that end in each way that dashboards tell apart."""
MESSAGES = 21
"""Those of a round; retries come in addition."""
WAITING = 3
UNTAKEN = f"""
for _ in range({WAITING}):
    app.add.apply_async((1, 2), queue="later", priority=9)
"""
"""Messages in a queue that no worker consumes from."""
STATS = (
    ("queues", "Ready", WAITING),
    ("queues", "Queues without consumers", 1),
    ("overview", "Workers", 1),
    ("overview", "Ready", WAITING),
    ("overview", "Lost processes", 1),
    ("overview", "Slots in use", 0.5),
)
"""What the dashboards say in the end."""


def promtool(*words: str, given: str = "", folder: Path | None = None) -> str:
    """Run Prometheus' own tool; it fails the test if it finds a fault."""
    with skip_if_missing():
        program = services.find_program(
            "promtool", variable="TASKOBS_PROMTOOL", install="apt-get install prometheus"
        )
    done = subprocess.run(
        [program, *words], cwd=folder, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
    write(tmp_path)
    assert "SUCCESS" in promtool(*command, folder=tmp_path)


def wait_for(prometheus: Prometheus, expression: str) -> None:
    """Wait until a query returns something."""
    assert wait_until(lambda: bool(prometheus.query(expression)), timeout=LIMIT), expression


def wait_for_stat(prometheus: Prometheus, dashboard: str, title: str, value: float) -> None:
    """Wait until a panel of one number shows this one."""
    [panel] = [one for one in DASHBOARDS[dashboard].panels if one.title == title]
    wait_for(prometheus, f"({filled(panel.queries[0].expression, task=TASK)}) == {value}")


def test_every_panel_has_data(live: LiveApp, redis_broker: Broker, tmp_path: Path) -> None:
    """I run a worker and two monitors: each panel is filled, nothing counts twice, alerts fire."""
    port = services.free_port()
    env = {"TASKOBS_METRICS_PORT": str(port)}
    monitors = Monitors(live, redis_broker, {})
    write(tmp_path)
    with ExitStack() as stack:
        # All start side by side.
        worker = live.worker(redis_broker, env=env, ready=False)
        producer = live.producer(redis_broker)
        one, two = (
            stack.enter_context(
                monitors.start("--port", "0", "--interval", "0.5", "-Q", "later", name=name)
            )
            for name in ("one", "two")
        )
        with skip_if_missing():
            found = [f"127.0.0.1:{port}", *(m.url.removeprefix("http://") for m in (one, two))]
            rules = [tmp_path / RULES]
            prometheus = stack.enter_context(services.prometheus(tmp_path, found, rules))
        # A counter rises from what Prometheus has seen, not from nothing.
        wait_for(prometheus, 'celery_worker_process_exits_total{celery_reason="signal"} == 0')
        producer.run(
            f"{ROUND}\n{UNTAKEN}\napp.die.delay()\nheld = app.hold.delay({str(tmp_path)!r})"
        )
        wait_for(prometheus, 'ALERTS{alertname="CeleryProcessLost", alertstate="firing"} == 1')
        wait_for(prometheus, f"sum(celery_task_received_total) >= {MESSAGES}")
        # The same of the last attempts: without them, both rounds may be its first sample.
        wait_for(prometheus, f'sum(celery_task_failures_total{{celery_task_name="{TASK}"}}) >= 5')

        def shown() -> bool:
            # Once more for each look: panels of rates show the last minute alone.
            producer.run(ROUND)
            return not empty(prometheus)

        assert wait_until(shown, timeout=LIMIT, tick=2), empty(prometheus)
        ready = f'{{celery_queue="later", celery_state="ready"}} == {WAITING}'
        wait_for(prometheus, f"count(celery_queue_messages{ready}) == 2")
        wait_for(prometheus, f"queue:celery_queue_messages:max{ready}")
        for dashboard, title, number in STATS:
            wait_for_stat(prometheus, dashboard, title, number)
        wait_for(
            prometheus, 'ALERTS{alertname="CeleryQueueWithoutConsumers", celery_queue="later"}'
        )
        assert {rule["health"] for rule in prometheus.rules()} == {"ok"}
        assert prometheus.exemplars("celery_task_duration_seconds_bucket")
        for url in (f"http://127.0.0.1:{port}", one.url):
            promtool("check", "metrics", given=services.fetch_text(f"{url}/metrics"))
        (tmp_path / "go").touch()
        assert worker.stop() == 0


def empty(prometheus: Prometheus) -> list[str]:
    """Give what would be an empty panel, or an empty list of choices."""
    found = [
        line
        for dashboard in DASHBOARDS.values()
        for line in empty_panels(prometheus, dashboard, task=TASK)
    ]
    variables = [
        variable
        for dashboard in DASHBOARDS.values()
        for variable in dashboard.variables
        if isinstance(variable, Variable)
    ]
    return [*found, *(one.name for one in variables if not choices(prometheus, one))]
