"""What relays have counted as dropped: as their status says it, their metrics, and their last line.

A relay that is killed takes its counts along: its status is read before. One that ends by itself
sends its last counts as metrics, and logs them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from taskobs import semconv
from tests.live.process import LIMIT
from tests.support.relay_status import replies

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

Reason = tuple[str, str]
"""A kind, such as ``span``, and why it was dropped."""
OF_TELEMETRY = frozenset({"span", "envelope", "log", "frame"})
"""Kinds of which each is, or may be, telemetry; the others are connections and the like."""
LAST_LINE = re.compile(r"taskobs relay: ending; dropped in all: (.*)")
ONE_LOSS = re.compile(r"(\d+) (\w+?)s?: ")


@dataclass
class Losses:
    """What each relay has counted, by the time at which it began to count."""

    of_relays: dict[int, Counter[Reason]] = field(default_factory=dict[int, "Counter[Reason]"])

    def note_status(self, told: Mapping[str, Any]) -> None:
        """Take what a relay says of itself."""
        dropped: Mapping[str, Mapping[str, int]] = told["dropped"]
        counts = {
            (kind, reason): number
            for kind, reasons in dropped.items()
            for reason, number in reasons.items()
        }
        self._note(int(told["since"] * 1e9), counts)

    def note_metrics(self, bodies: Iterable[bytes]) -> None:
        """Take exports of metrics, the oldest first."""
        for body in bodies:
            counts: dict[int, dict[Reason, int]] = {}
            for metric in _metrics(body):
                if metric.name == semconv.METRIC_RELAY_DROPPED:
                    for point in metric.sum.data_points:
                        told = {pair.key: pair.value.string_value for pair in point.attributes}
                        reason = told[semconv.RELAY_KIND], told.get(semconv.RELAY_REASON, "")
                        counts.setdefault(point.start_time_unix_nano, {})[reason] = point.as_int
            for since, found in counts.items():
                self._note(since, found)

    def _note(self, since: int, counts: Mapping[Reason, int]) -> None:
        """Counts only rise, so the highest is the last."""
        expected = self.of_relays.setdefault(since, Counter())
        for reason, number in counts.items():
            expected[reason] = max(expected[reason], number)

    @property
    def by_kind(self) -> Counter[str]:
        """All that was dropped of telemetry, by kind."""
        found: Counter[str] = Counter()
        for (kind, _), number in self.by_reason.items():
            found[kind] += number
        return found

    @property
    def by_reason(self) -> Counter[Reason]:
        """All that was dropped of telemetry, by kind and reason."""
        found: Counter[Reason] = Counter()
        for counts in self.of_relays.values():
            found.update({key: n for key, n in counts.items() if key[0] in OF_TELEMETRY and n})
        return found


def _metrics(body: bytes) -> Iterator[Metric]:
    request = ExportMetricsServiceRequest.FromString(body)
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            yield from scope.metrics


def logged(log: str) -> Counter[str]:
    """Sum what relays that ended by themselves logged as dropped, by kind."""
    found: Counter[str] = Counter()
    for line in LAST_LINE.findall(log):
        for number, kind in ONE_LOSS.findall(line):
            found[kind] += int(number)
    return found


def ask(worker_pid: int, runtime: str) -> dict[str, Any] | None:
    """Ask the relay of a worker for its counts; None if it gives no answer."""
    found = replies(worker_pid, {"XDG_RUNTIME_DIR": runtime})
    return found[0] if found else None


def ask_by_command(worker_pid: int, runtime: str) -> dict[str, Any] | None:
    """Do as `ask`, as a person does: by ``taskobs status --json``."""
    command = [sys.executable, "-m", "taskobs", "status", "--json"]
    env = {**os.environ, "XDG_RUNTIME_DIR": runtime}
    done = subprocess.run(
        command, env=env, check=True, capture_output=True, text=True, timeout=LIMIT
    )
    relays: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return next((one for one in relays if one["worker_pid"] == worker_pid and "pid" in one), None)
