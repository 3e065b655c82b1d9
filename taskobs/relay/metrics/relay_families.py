"""What the relay counts of its own work as metric families."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from taskobs import semconv
from taskobs.metrics.families import Family, Sample
from taskobs.relay import counters as counted
from taskobs.relay.counters import Counters

_COUNTED: Final = {
    counted.RECEIVED: (semconv.METRIC_RELAY_RECEIVED, "What the worker's processes handed over."),
    counted.EXPORTED: (semconv.METRIC_RELAY_EXPORTED, "What a backend has accepted."),
    counted.DROPPED: (semconv.METRIC_RELAY_DROPPED, "What will never arrive, and why."),
    counted.RETRIED: (semconv.METRIC_RELAY_RETRIED, "What was sent again."),
    counted.SPOOLED: (semconv.METRIC_RELAY_SPOOLED, "What was written to disk."),
    counted.LOST: (semconv.METRIC_RELAY_LOST, "Spans that were open when their process died."),
    counted.DUPLICATE: (semconv.METRIC_RELAY_DUPLICATE, "What arrived a second time."),
    counted.DISCARDED: (semconv.METRIC_RELAY_DISCARDED, "Held spans that no rule keeps."),
    counted.BYTES: (semconv.METRIC_RELAY_BYTES, "Bytes of frames."),
}
_GAUGES: Final = {
    "pending": (semconv.METRIC_RELAY_PENDING, "What waits to be sent."),
    "open": (semconv.METRIC_RELAY_OPEN, "Spans that are open."),
    "held": (semconv.METRIC_RELAY_HELD, "Spans that wait until it is known whether to keep them."),
    "clients": (semconv.METRIC_RELAY_CLIENTS, "Processes that use the relay."),
}


def possible_families() -> Iterator[Family]:
    """Give all metrics of the relay, without series."""
    for name, (metric, meaning) in _COUNTED.items():
        yield Family(name=metric, kind="counter", meaning=meaning, unit=_unit(name))
    for metric, meaning in _GAUGES.values():
        yield Family(name=metric, kind="gauge", meaning=meaning, unit="1")


def relay_families(counters: Counters) -> Iterator[Family]:
    """Give the metrics of the relay, but for those that have no series yet."""
    counts = counters.counts()
    for name, (metric, meaning) in _COUNTED.items():
        samples = [Sample(_labels(*of), number) for of, number in counts[name].items()]
        if samples:
            unit = _unit(name)
            yield Family(name=metric, kind="counter", meaning=meaning, unit=unit, samples=samples)
    gauges = counters.gauges()
    for name, (metric, meaning) in _GAUGES.items():
        samples = [Sample(_labels(kind, ""), n) for (of, kind), n in gauges.items() if of == name]
        if samples:
            yield Family(name=metric, kind="gauge", meaning=meaning, unit="1", samples=samples)


def _unit(name: str) -> str:
    return "By" if name == counted.BYTES else f"{{{name}}}"


def _labels(kind: str, reason: str) -> dict[str, str]:
    pairs = {semconv.RELAY_KIND: kind, semconv.RELAY_REASON: reason}
    return {name: value for name, value in pairs.items() if value}
