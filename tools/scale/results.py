"""All measurements, the file that they are saved to, and what one of each costs by them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.results import machine
from tools.scale import app_shape, workers
from tools.scale.ceiling import Ceiling
from tools.scale.collector import DECISION_WAIT, version
from tools.scale.counting import Metrics, Received, Signal
from tools.scale.knee import Knee, Step, knee, per_thousand
from tools.scale.paper import Costs, per_name
from tools.scale.workers import Broker, Worker


@dataclass
class Results:
    """The results of all parts."""

    machine: str
    worker: Worker
    relay: list[Ceiling]
    collector: Knee

    def save(self, file: Path) -> None:
        """Write all of it as JSON."""
        file.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Results:
        """Read what `save` wrote."""
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        worker, collector = found["worker"], found["collector"]
        steps = {
            kind: [Step(**step) for step in listed] for kind, listed in collector["steps"].items()
        }
        return cls(
            found["machine"],
            Worker(
                {name: _received(one) for name, one in worker["workers"].items()},
                {name: _received(one) for name, one in worker["producers"].items()},
                Broker(**worker["broker"]),
            ),
            [Ceiling(**one) for one in found["relay"]],
            Knee(collector["spans"], collector["traces"], collector["bytes"], steps),
        )


def _received(found: dict[str, Any]) -> Received:
    signals = {name: Signal(**found[name]) for name in ("spans", "logs", "events")}
    return Received(metrics=Metrics(**found["metrics"]), **signals)


def today() -> str:
    """Say in general terms what is measured on, and when."""
    when, where = time.strftime("%Y-%m-%d"), machine().partition(";")[0]
    busy = f"load average {os.getloadavg()[0]:.0f} at the start"
    return f"{when}, {where}, OpenTelemetry Collector {version()}; {busy}."


def costs(results: Results) -> Costs:
    """Give what one of each costs."""
    found, producers = results.worker.workers, results.worker.producers
    one, many = found[workers.ONE], found[workers.NAMED]
    inside, zipped = found[workers.INSIDE], found[workers.INSIDE_GZIP]
    names = app_shape.NAMES
    fixed, each = per_name(one.metrics.series, many.metrics.series, names)
    few = found[workers.FEW_BUCKETS].metrics.series
    fixed_bytes, each_bytes = per_name(one.metrics.bytes, many.metrics.bytes, names)
    more = inside.spans.items - one.spans.items
    return Costs(
        publish_bytes=each_of(producers[workers.ONE].spans),
        run_bytes=each_of(one.spans),
        inside_bytes=(inside.spans.bytes - one.spans.bytes) / more,
        gzip=zipped.spans.bytes / inside.spans.bytes,
        event_bytes=each_of(one.events),
        message_bytes=results.worker.broker.message - results.worker.broker.bare_message,
        fixed_series=fixed,
        name_series=each,
        few_series=each - (many.metrics.series - few) / names,
        fixed_bytes=fixed_bytes,
        name_bytes=each_bytes,
        relay_cpu=min(one.cpu for one in results.relay),
        plain_cpu=per_thousand(results.collector.steps["plain"]),
        tail_cpu=per_thousand(results.collector.steps["tail"]),
        held_bytes=held_bytes(results.collector),
    )


def each_of(signal: Signal) -> float:
    """Give the bytes of one item, with its part of the request; 0 if there was none."""
    return signal.bytes / signal.items if signal.items else 0.0


def held_bytes(found: Knee) -> float:
    """Give the bytes for each span that waits: what tail sampling adds, at the highest rate."""
    top = knee(found.steps["tail"])
    plain = max(step.memory for step in found.steps["plain"] if step.due <= top.due)
    return max(0.0, top.memory - plain) * 1e6 / (top.accepted * DECISION_WAIT)
