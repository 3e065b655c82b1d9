"""The tables of docs/scale.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from bench.page import markdown
from tools.scale import paper, workers
from tools.scale.ceiling import Ceiling
from tools.scale.collector import DECISION_WAIT
from tools.scale.counting import Received
from tools.scale.knee import Knee, knee, per_thousand
from tools.scale.paper import Costs, Load, Sizing
from tools.scale.results import Results, costs, each_of, held_bytes
from tools.scale.workers import Broker

TITLES: Final = {"plain": "without tail sampling", "tail": "with tail sampling"}


def sections(results: Results) -> dict[str, str]:
    """Give the generated parts of the page, by the names of their markers."""
    measured = costs(results)
    return {
        "machine": results.machine,
        "worker": worker_table(results.worker.workers),
        "producer": worker_table(results.worker.producers),
        "metrics": metrics_table(results.worker.workers),
        "broker": broker_table(results.worker.broker),
        "relay": relay_table(results.relay),
        "collector": collector_table(results.collector),
        "steps": steps_table(results.collector),
        "costs": costs_table(measured),
        "paper": paper_table(paper.LOADS, measured),
    }


def worker_table(found: dict[str, Received]) -> str:
    """Requests, items and bytes of each kind."""
    head = ["1,000 tasks", "spans", "requests", "kB", "bytes a span"]
    head += ["log records", "kB", "Sentry events", "kB"]
    rows = [
        [
            name,
            *(f"{one.spans.items:,}", f"{one.spans.requests:,}", f"{one.spans.bytes / 1000:,.0f}"),
            f"{each_of(one.spans):,.0f}" if one.spans.items else "",
            *_or_nothing(one.logs.items, one.logs.bytes),
            *_or_nothing(one.events.items, one.events.bytes),
        ]
        for name, one in found.items()
    ]
    return markdown(head, rows)


def _or_nothing(items: int, size: int) -> tuple[str, str]:
    return (f"{items:,}", f"{size / 1000:,.0f}") if items else ("", "")


def metrics_table(found: dict[str, Received]) -> str:
    """What one export of metrics has."""
    names = (workers.ONE, workers.NAMED, workers.FEW_BUCKETS)
    rows = [
        [name, f"{one.points:,}", f"{one.series:,}", f"{one.bytes / 1000:,.1f}"]
        for name, one in ((name, found[name].metrics) for name in names)
    ]
    return markdown(["", "OTLP data points", "Prometheus series", "kB an export"], rows)


def broker_table(found: Broker) -> str:
    """What Redis is asked."""
    rows = [
        ["a message without taskobs, bytes", f"{found.bare_message:,.0f}"],
        ["a message with taskobs, bytes", f"{found.message:,.0f}"],
        ["commands of a poll of `taskobs monitor`", f"{found.poll_commands:,.0f}"],
        ["bytes to Redis of a poll", f"{found.poll_read:,.0f}"],
        ["bytes from Redis of a poll", f"{found.poll_written:,.0f}"],
    ]
    return markdown(["", "Redis"], rows)


def relay_table(found: Sequence[Ceiling]) -> str:
    """How many spans a second one relay sends."""
    cpu = min(one.cpu for one in found)
    rows = [
        [
            f"{one.delay * 1000:,.0f} ms",
            f"{one.rate:,.0f}",
            number(paper.ceiling(one.delay, cpu)),
            f"{one.cpu * 1000:,.0f}",
        ]
        for one in found
    ]
    head = ["a response takes", "spans/s of one relay", "on a core of its own, at most"]
    return markdown([*head, "CPU ms for 1,000 spans"], rows)


def collector_table(found: Knee) -> str:
    """The knee, and what 1,000 spans cost."""
    rows = [
        [
            TITLES[kind],
            f"{knee(steps).due:,.0f}",
            f"{per_thousand(steps) * 1000:,.1f}",
            f"{1 / per_thousand(steps) * 1000:,.0f}",
            f"{knee(steps).memory:,.0f}",
        ]
        for kind, steps in found.steps.items()
    ]
    head = ["one core", "knee, spans/s", "CPU ms for 1,000 spans", "spans for a CPU second", "MB"]
    return markdown(head, rows)


def steps_table(found: Knee) -> str:
    """Each step."""
    head = ["", "spans/s due", "accepted", "refused requests", "median ms", "99 % ms"]
    head += ["cores", "CPU ms for 1,000", "MB", "batches queued", "traces in memory"]
    rows = [
        [
            TITLES[kind],
            *(f"{step.due:,.0f}", f"{step.accepted:,.0f}", f"{step.refused:,}"),
            *(f"{step.median * 1000:,.0f}", f"{step.high * 1000:,.0f}"),
            *(f"{step.busy:.2f}", f"{step.cpu * 1000:,.1f}", f"{step.memory:,.0f}"),
            *(f"{step.queued:,.0f}", f"{step.held:,.0f}" if kind == "tail" else ""),
        ]
        for kind, steps in found.steps.items()
        for step in steps
    ]
    held = f"A span that waits for its decision takes {held_bytes(found):,.0f} bytes of memory"
    return f"{markdown(head, rows)}\n\n{held} (`decision_wait` {DECISION_WAIT} s)."


def costs_table(found: Costs) -> str:
    """What the arithmetic is done with."""
    rows = [
        ["bytes of a publish span, of a run span, of a span inside", _bytes_of(found)],
        ["share that gzip leaves", f"{found.gzip:.2f}"],
        ["bytes of a Sentry event", f"{found.event_bytes:,.0f}"],
        ["bytes that a message has more", f"{found.message_bytes:,.0f}"],
        ["Prometheus series of a worker", f"{found.fixed_series:,.0f}"],
        ["… for each name of a task", f"{found.name_series:,.1f}"],
        ["… with three buckets", f"{found.few_series:,.1f}"],
        ["relay: CPU ms for 1,000 spans", f"{found.relay_cpu * 1000:,.0f}"],
        ["Collector: the same, without tail sampling", f"{found.plain_cpu * 1000:,.1f}"],
        ["… with it", f"{found.tail_cpu * 1000:,.1f}"],
        ["… bytes of memory for each span that waits", f"{found.held_bytes:,.0f}"],
    ]
    return markdown(["of one", ""], rows)


def _bytes_of(found: Costs) -> str:
    sizes = (found.publish_bytes, found.run_bytes, found.inside_bytes)
    return ", ".join(f"{size:,.0f}" for size in sizes)


def paper_table(loads: Sequence[Load], found: Costs) -> str:
    """What each load takes."""
    sizes = [paper.size(load, found) for load in loads]
    columns = [_column(load, one) for load, one in zip(loads, sizes, strict=True)]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return markdown(["", *(load.title for load in loads)], rows)


def _column(load: Load, one: Sizing) -> dict[str, str]:
    return {
        "workers, tasks a second of each": f"{load.workers:,} of {load.rate:,.0f}",
        "spans/s of one worker": number(one.worker_spans),
        "spans/s": number(one.spans),
        "requests/s with spans": number(one.requests),
        "MB/s of spans": number(one.span_bytes / 1e6),
        "MB/s more through the broker": number(one.broker_bytes / 1e6),
        "a response may take, ms": number(one.response * 1000),
        "… or is away for, s, without a spool": number(one.memory_outage),
        "… with a spool of 256 MiB": number(one.spool_outage),
        "cores of Collectors, first tier": number(one.first_tier),
        "… second tier, tail sampling": number(one.second_tier),
        "traces that wait for 30 s": number(one.held_traces),
        "GB that they take": number(one.held_bytes / 1e9),
        "Prometheus series": number(one.series),
        "MB/s of metrics": number(one.metric_bytes / 1e6),
        "Sentry events/s": number(one.events),
        "… a day": number(one.events * paper.DAY),
        "spans/s that are stored": number(one.stored_spans),
        "TB a day, plain": number(one.stored_bytes / 1e12),
        "… as gzip has it": number(one.stored_gzip / 1e12),
    }


def number(value: float) -> str:
    """Write a number with two significant digits: more would be a promise."""
    if not value:
        return "-"
    digits = 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"
