"""Finds the traces that an id leads to: of a task, of a Sentry event, or of a trace."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from taskobs import semconv
from taskobs.cli.jaeger.query_api import QueryApi, QueryError
from taskobs.cli.jaeger.spans import spans_of
from taskobs.testing.wire import MalformedError, ReceivedSpan

_HEX: Final = re.compile(r"[0-9a-f]{32}")


def find(
    api: QueryApi, wanted: str, *, services: Sequence[str] = (), days: float
) -> list[ReceivedSpan]:
    """Return the spans of all traces that an id leads to; none if there is no such trace.

    Only an id of a trace is found at any age, and in whichever service: Jaeger searches by service
    and time. ``services`` are those to search, all by default.

    Raises:
        QueryError: Jaeger can't be asked, or doesn't answer as it should.
    """
    for found in _attempts(api, wanted, services, days):
        if found:
            try:
                return spans_of(found)
            except MalformedError as error:
                raise QueryError(f"{api.address} answers in an unknown form ({error})") from None
    return []


def _attempts(
    api: QueryApi, wanted: str, services: Sequence[str], days: float
) -> Iterator[list[object]]:
    """Try what the id may be of, the cheapest first."""
    lowered = wanted.lower()
    if _HEX.fullmatch(lowered):
        yield api.trace(lowered)
    names = services or api.services()
    tags = [(semconv.CELERY_TASK_ID, wanted)]
    # Sentry shows an event's id with dashes or without; spans have it without.
    if _HEX.fullmatch(event_id := lowered.replace("-", "")):
        tags.append((semconv.SENTRY_EVENT_ID, event_id))
    for tag, value in tags:
        # Of all services: a task that was published twice, or a run that is only linked to its
        # publish, has more than one trace.
        yield [one for name in names for one in api.search(name, tag, value, days=days)]
