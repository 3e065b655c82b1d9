"""Traces and issues as the scripts of the pages read them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from taskobs import semconv
from taskobs.view.traces import NS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskobs.view.issues import Issue
    from taskobs.view.traces import Node, Trace


def trace_data(trace: Trace, title: str | None = None) -> dict[str, object]:
    """Return a trace; without a title it has the name of its root."""
    return {
        "trace_id": trace.trace_id,
        "title": title or trace.roots[0].span.name,
        "seconds": trace.seconds,
        "failures": trace.failures,
        "spans": [_span(depth, node, trace.start_ns) for depth, node in trace.walk()],
    }


def _span(depth: int, node: Node, origin_ns: int) -> dict[str, object]:
    span = node.span
    return {
        "span_id": span.span_id,
        "depth": depth,
        "name": span.name,
        "kind": span.kind,
        "role": node.role,
        "outcome": node.outcome,
        "note": node.note,
        "service": str(span.resource.get("service.name", "")),
        "start": (span.start_ns - origin_ns) / NS_PER_SECOND,
        "seconds": node.seconds,
        "queue_latency": node.queue_latency,
        "attributes": _pairs(span.attributes),
        "events": [{"name": e.name, "attributes": _pairs(e.attributes)} for e in span.events],
        "links": [
            {"span_id": link.span_id, "kind": str(link.attributes.get(semconv.LINK_KIND, ""))}
            for link in span.links
        ],
    }


def issue_data(found: Issue) -> dict[str, object]:
    """Return an issue, its tags sorted."""
    data: dict[str, object] = asdict(found)
    data["tags"] = sorted(found.tags.items())
    return data


def _pairs(attributes: Mapping[str, object]) -> list[tuple[str, str]]:
    """Sort attributes; as text: JSON has no ``nan``, JavaScript no 64-bit integers."""
    return [(key, str(value)) for key, value in sorted(attributes.items())]
