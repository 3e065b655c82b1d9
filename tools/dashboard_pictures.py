"""Run two workers, a monitor and Prometheus under load, and draw each dashboard from its answers.

Grafana has no part in it: each panel's query is asked as Grafana asks it, and drawn where the
dashboard has the panel. Writes ``docs/dashboard-*.svg``. Needs Redis, Prometheus and matplotlib.
Exit status: 0; 1 if a panel has no data.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from taskobs.dashboards.grafana import as_grafana
from taskobs.dashboards.panels import Dashboard, Row
from taskobs.dashboards.writing import DASHBOARDS
from taskobs.testing.receiver import Receiver
from tests.live import services
from tests.live.celery_process import Broker, LiveApp
from tests.live.dashboards import filled
from tests.live.monitor import Monitors
from tools.dashboard_drawing import Answered, Series, draw

DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
APP: Final = "tools.dashboard_app"
TASK: Final = "shop.book_carrier"
QUEUES: Final = ("celery", "reports")
POINTS: Final = 180
"""Of a line."""
MINUTES: Final = 10.0


@dataclass(frozen=True)
class Range:
    """A range of time, as a Prometheus has seen it."""

    prometheus: services.Prometheus
    start: float
    end: float

    def answer(self, target: Mapping[str, Any]) -> list[Series]:
        """Return what the query of a panel answers."""
        span = f"{self.end - self.start:.0f}s"
        asked = {"query": filled(target["expr"], task=TASK, span=span)}
        if target["instant"]:
            found = self._ask("query", **asked, time=self.end)
            return [Series(one["metric"], [_point(one["value"])]) for one in found]
        step = (self.end - self.start) / POINTS
        found = self._ask("query_range", **asked, start=self.start, end=self.end, step=step)
        return [Series(one["metric"], [*map(_point, one["values"])]) for one in found]

    def _ask(self, page: str, **parameters: object) -> list[dict[str, Any]]:
        answer = services.fetch(f"{self.prometheus.url}/api/v1/{page}?{urlencode(parameters)}")
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


def _point(pair: list[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


@contextmanager
def observed_shop(folder: Path, minutes: float) -> Generator[Range]:
    """Run the shop for some minutes; yield what Prometheus has seen of it."""
    with ExitStack() as stack:
        redis = stack.enter_context(services.redis(folder))
        receiver = stack.enter_context(Receiver())
        live = stack.enter_context(LiveApp(folder, receiver.endpoint, receiver.dsn))
        broker = Broker("redis", redis.url(), redis.url())
        targets: list[str] = []
        for queue, slots in zip(QUEUES, (4, 2), strict=True):
            port = services.free_port()
            env = {"TASKOBS_METRICS_PORT": str(port)}
            live.worker(broker, "-Q", queue, app=APP, concurrency=slots, env=env)
            targets.append(f"{services.HOST}:{port}")
        monitor = Monitors(live, broker, {}, APP).start("--port", "0", "--interval", "2")
        targets.append(stack.enter_context(monitor).url.removeprefix("http://"))
        prometheus = stack.enter_context(services.prometheus(folder, targets))
        start = time.time()
        producer = live.producer(broker, app=APP)
        seconds = 60 * minutes
        producer.run(f"app.publish_orders({seconds})", timeout=2 * seconds)
        yield Range(prometheus, start, time.time())


def repeated(dashboard: Dashboard) -> Dashboard:
    """Return a dashboard with a row for each queue where Grafana repeats one."""
    rows = [one for row in dashboard.rows for one in (_of_queues(row) if row.repeat else [row])]
    return replace(dashboard, rows=tuple(rows))


def _of_queues(row: Row) -> Iterator[Row]:
    for queue in QUEUES:
        panels = [
            replace(
                panel,
                queries=tuple(
                    replace(one, expression=one.expression.replace("$queue", queue))
                    for one in panel.queries
                ),
            )
            for panel in row.panels
        ]
        title = row.title.replace("$queue", queue)
        yield replace(row, title=title, panels=tuple(panels))


def answered(dashboard: Dashboard, shown: Range) -> list[Answered]:
    """Return the panels of a dashboard, and what their queries answer."""
    panels = as_grafana(repeated(dashboard))["panels"]
    return [
        Answered(
            {**panel, "title": panel["title"].replace("$task", TASK)},
            [shown.answer(target) for target in panel.get("targets", ())],
        )
        for panel in panels
    ]


def main() -> int:
    """Draw all dashboards."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of load (%(default)s)")
    parser.add_argument("--out", type=Path, default=DOCS, help="the folder (%(default)s)")
    args = parser.parse_args()
    empty: list[str] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        observed_shop(Path(folder), args.minutes) as shown,
    ):
        for name, dashboard in DASHBOARDS.items():
            found = answered(dashboard, shown)
            draw(found, args.out / f"dashboard-{name}.svg")
            print(args.out / f"dashboard-{name}.svg")
            empty += [
                f"{name}: {one.panel['title']}"
                for one in found
                if one.panel["type"] != "row" and not one.has_data
            ]
    for line in empty:
        print(f"no data: {line}", file=sys.stderr)
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
