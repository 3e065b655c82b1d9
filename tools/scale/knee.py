"""The second part: simulated relays against a real Collector, faster and faster, up to its knee."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.children import Process
from tools.scale import collector
from tools.scale.relays import Sent, Template

RELAYS: Final = 100
PAST: Final = 2
"""Steps past the knee, so that a single moment in which the machine was busy is not one."""
DRIVERS: Final = 2
"""Processes that the relays are threads of."""
RATES: Final = tuple(1000 * rate for rate in (5, 10, 20, 30, 40, 60, 80, 100, 120, 160))
MEASURED: Final = 3.0
"""Seconds of a step that are measured, after those that it takes to be steady."""
SUSTAINED: Final = 0.95
"""Of the spans that were due: with less, the Collector is past its knee."""
LATE: Final = 1.0
"""Seconds: a relay whose response takes longer falls behind its next batch."""


@dataclass(frozen=True)
class Step:
    """One rate."""

    due: float
    """Spans a second that the relays had to send."""
    accepted: float
    """Spans a second that the Collector took."""
    refused: int
    """Requests that it refused."""
    median: float
    """Seconds from when a request was due to its response."""
    high: float
    """… of the slowest of a hundred."""
    cpu: float
    """Seconds of the Collector's CPU for 1,000 spans."""
    busy: float
    """Cores that it kept busy."""
    memory: float
    """Resident megabytes at the end."""
    queued: float
    """Batches that waited in its queue for the backend."""
    held: float
    """Traces that waited for their decision."""

    @property
    def is_sustained(self) -> bool:
        """Whether the Collector kept up."""
        return self.accepted >= SUSTAINED * self.due and self.high <= LATE and not self.refused


@dataclass(frozen=True)
class Knee:
    """All of the second part."""

    spans: int
    """In a request."""
    traces: int
    """… that they are of."""
    bytes: int
    """… that it has."""
    steps: dict[str, list[Step]]
    """By "plain" and "tail"."""


def measure(body: bytes, rates: Sequence[float] = RATES) -> Knee:
    """Raise the rate of a request from a relay until a Collector no longer keeps up."""
    template = Template(body)
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        (folder / "request").write_bytes(body)
        steps = {kind: _climb(folder, rates, tail=kind == "tail") for kind in ("plain", "tail")}
    return Knee(template.spans, template.traces, len(body), steps)


def knee(steps: Sequence[Step]) -> Step:
    """Give the highest rate that was sustained; the first if none was."""
    sustained = [step for step in steps if step.is_sustained]
    return max(sustained, key=lambda step: step.due) if sustained else steps[0]


def per_thousand(steps: Sequence[Step]) -> float:
    """Give CPU seconds for 1,000 spans: the median of the steps of at least a third of the knee."""
    least = knee(steps).due / 3
    return statistics.median([step.cpu for step in steps if step.due >= least])


def _climb(folder: Path, rates: Sequence[float], *, tail: bool) -> list[Step]:
    theirs, ours = _cores()
    steps: list[Step] = []
    with ExitStack() as stack:
        there = stack.enter_context(collector.running(folder, tail=tail, cores=theirs))
        drivers = [stack.enter_context(_driver(folder, there, ours)) for _ in range(DRIVERS)]
        for rate in rates:
            steps.append(_step(there, drivers, rate, settle=collector.DECISION_WAIT if tail else 1))
            print(f"tail={tail}: {steps[-1]}", file=sys.stderr, flush=True)
            if len(steps) >= PAST and not any(step.is_sustained for step in steps[-PAST:]):
                break
    return steps


def _cores() -> tuple[list[int], list[int]]:
    """Give the Collector's core, and those of all else."""
    cores = sorted(os.sched_getaffinity(0))
    return [cores[-1]], cores[:-1] or cores


def _driver(folder: Path, there: collector.Collector, cores: Sequence[int]) -> Process:
    command = ("-m", "tools.scale.relays", str(folder / "request"), there.endpoint)
    with collector.on_cores(cores):
        driver = Process(*command, str(RELAYS // DRIVERS))
    driver.read()
    return driver


def _step(
    there: collector.Collector, drivers: Sequence[Process], rate: float, *, settle: float
) -> Step:
    sent = _drive(drivers, rate, settle)
    before, began = there.cpu, time.monotonic()
    sent = _drive(drivers, rate, MEASURED)
    seconds = time.monotonic() - began
    used = there.cpu - before
    ranked = sorted(sent.latencies)
    return Step(
        due=rate,
        accepted=sent.accepted / seconds,
        refused=sent.refused,
        median=statistics.median(ranked),
        high=ranked[int(len(ranked) * 0.99)],
        cpu=used / max(sent.accepted, 1) * 1000,
        busy=used / seconds,
        memory=there.memory,
        queued=there.count("otelcol_exporter_queue_size"),
        held=there.count("otelcol_processor_tail_sampling_sampling_traces_on_memory"),
    )


def _drive(drivers: Sequence[Process], rate: float, seconds: float) -> Sent:
    for driver in drivers:
        driver.write(f"{rate / len(drivers)} {seconds}")
    total = Sent()
    for driver in drivers:
        total.add(Sent(**json.loads(driver.read())))
    return total
