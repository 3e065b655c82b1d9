"""Renders all traces of a demo as one self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskobs.view.page_data import issue_data, trace_data
from taskobs.view.pages import embeddable, page, resource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskobs.view.issues import Issue
    from taskobs.view.traces import Trace

FOLDER = "taskobs.view.demo"


def render(
    traces: Sequence[Trace],
    issues: Sequence[Issue],
    log: Sequence[str],
    titles: Mapping[str, str] | None = None,
) -> str:
    """Write the page; ``titles`` names traces by their id (the root's name otherwise)."""
    data = {
        "traces": [trace_data(trace, (titles or {}).get(trace.trace_id)) for trace in traces],
        "issues": [issue_data(found) for found in issues],
        "log": list(log),
    }
    html, script = resource(FOLDER, "page.html"), resource(FOLDER, "page.js")
    return page(html, scripts=[script], data=embeddable(data))
