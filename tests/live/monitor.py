"""Runs ``taskobs monitor`` for a test, and asks what it serves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from tests.live.celery_process import SHOP
from tests.live.process import LIMIT, Program
from tests.live.services import fetch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.live.celery_process import Broker, LiveApp

COMMAND = [sys.executable, "-m", "taskobs", "monitor"]


@dataclass(frozen=True)
class Monitors:
    """Starts monitors of one app."""

    live: LiveApp
    broker: Broker
    env: Mapping[str, str]
    app: str = SHOP

    def once(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run ``taskobs monitor --once`` to its end."""
        return subprocess.run(
            [*COMMAND, "-A", self.app, "--once", *args],
            env=self.live.environment(self.broker, self.env),
            cwd=self.live.folder,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    def queues(self) -> dict[str, dict[str, Any]]:
        """Poll once; gives the fields of each queue."""
        done = self.once("--json")
        assert done.returncode == 0, done.stderr
        return by_name(json.loads(done.stdout))

    def start(self, *args: str, name: str = "monitor") -> Monitor:
        """Start a monitor that goes on; the caller ends it."""
        return Monitor(
            [*COMMAND, "-A", self.app, *args],
            log=self.live.folder / f"{name}.log",
            env=self.live.environment(self.broker, self.env),
            cwd=self.live.folder,
        )


class Monitor(Program):
    """A running ``taskobs monitor``."""

    @property
    def url(self) -> str:
        """Where it serves, as its log says."""
        self.wait_log("/queues")
        found = re.search(r"(http://\S+)/metrics", self.log)
        assert found, self.tail()
        return found[1]

    def queues(self) -> dict[str, dict[str, Any]]:
        """Give what ``/queues`` says, by the name of the queue."""
        return by_name(fetch(f"{self.url}/queues"))

    def scrape(self, accept: str = "") -> str:
        """Give what ``/metrics`` says."""
        request = urllib.request.Request(f"{self.url}/metrics", headers={"Accept": accept})  # noqa: S310
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:  # noqa: S310
            text: bytes = answer.read()
        return text.decode()

    def series(self) -> dict[tuple[str, ...], float]:
        """Give each series of a scrape: its name and the values of its labels, sorted by label."""
        return {
            (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(self.scrape())
            for sample in family.samples
        }


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Give the queues of an answer by their names."""
    return {queue.pop("name"): queue for queue in found["queues"]}
