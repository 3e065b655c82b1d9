"""Renders all traces of a demo as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING

from taskobs import semconv
from taskobs.view.traces import NS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskobs.view.traces import Issue, Node, Trace


def render(
    traces: Sequence[Trace],
    issues: Sequence[Issue],
    log: Sequence[str],
    titles: Mapping[str, str] | None = None,
) -> str:
    """Write the page; ``titles`` names traces by their id (the root's name otherwise)."""
    data = {
        "traces": [_trace(trace, (titles or {}).get(trace.trace_id)) for trace in traces],
        "issues": [_issue(found) for found in issues],
        "log": list(log),
    }
    package = files("taskobs.view.demo")
    script = package.joinpath("page.js").read_text(encoding="utf-8")
    parts = {
        "@SCRIPT_HASH@": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "@SCRIPT@": script,
        # Last, so that the names of tasks are not searched for placeholders.
        "@DATA@": embeddable(data),
    }
    html = package.joinpath("page.html").read_text(encoding="utf-8")
    for mark, text in parts.items():
        html = html.replace(mark, text)
    return html


def embeddable(data: object) -> str:
    """Write JSON that can stand inside a ``<script>``: no ``</script>``, no ``<!--`` can occur."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _trace(trace: Trace, title: str | None) -> dict[str, object]:
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


def _issue(found: Issue) -> dict[str, object]:
    return {
        "event_id": found.event_id,
        "title": found.title,
        "message": found.message,
        "tags": sorted(found.tags.items()),
        "trace_id": found.trace_id,
        "span_id": found.span_id,
    }


def _pairs(attributes: Mapping[str, object]) -> list[tuple[str, str]]:
    """Sort attributes; as text: JSON has no ``nan``, JavaScript no 64-bit integers."""
    return [(key, str(value)) for key, value in sorted(attributes.items())]
