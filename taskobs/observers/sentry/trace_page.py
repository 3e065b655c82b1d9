"""The link from an event to the page that shows its trace."""

from __future__ import annotations

from typing import Final

from taskobs import semconv
from taskobs.observers.sentry import redact

_LONGEST_TAG: Final = 200
"""Characters of a tag's value; Sentry drops a longer one."""


def add_trace_url(event: dict[str, object], template: str, trace_id: str) -> None:
    """Put the link on an event of this trace: as a context, and as a tag if that has room for it.

    Only ``{trace_id}`` and ``{span_id}`` are replaced: addresses of Grafana have other braces.
    """
    contexts = redact.part(event, "contexts")
    found = redact.table(contexts.get("trace"))
    if found.get("trace_id") != trace_id:
        return
    span_id = str(found.get("span_id") or "")
    url = template.replace("{trace_id}", trace_id).replace("{span_id}", span_id)
    page = redact.part(contexts, semconv.SENTRY_CONTEXT_LINKS)
    page[semconv.SENTRY_CONTEXT_TRACE_URL] = url
    if len(url) <= _LONGEST_TAG:
        redact.set_tags(event, {semconv.TAG_TRACE_URL: url})
