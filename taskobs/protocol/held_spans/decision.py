"""Decides at the end of a run whether it is kept."""

from __future__ import annotations

from typing import Any, Final

from taskobs import semconv
from taskobs.model import Outcome
from taskobs.protocol.held_spans.rules import KeepRules
from taskobs.protocol.span_encoder import ATTRIBUTES, END_NS, START_NS

_FAILURES: Final = frozenset({Outcome.FAILED.value, Outcome.LOST.value, Outcome.UNKNOWN.value})
"""The outcomes whose runs are errors, unless the exception was expected."""
_NS: Final = 1_000_000_000


def is_kept(rules: KeepRules, row: list[Any]) -> bool:
    """Tell whether a run is kept, by its ended span, unpacked."""
    attributes: dict[str, object] = row[ATTRIBUTES]
    outcome = attributes.get(semconv.CELERY_OUTCOME)
    return (
        (rules.failed and _is_failure(attributes, outcome))
        or (rules.lost and outcome == Outcome.LOST.value)
        or (rules.retried and outcome == Outcome.RETRIED.value)
        or _seconds(row) > rules.slower
    )


def _is_failure(attributes: dict[str, object], outcome: object) -> bool:
    # With an event beside another outcome: a hook or a callback has failed.
    failed = outcome in _FAILURES or semconv.SENTRY_EVENT_ID in attributes
    return failed and not attributes.get(semconv.CELERY_EXPECTED)


def _seconds(row: list[Any]) -> float:
    start, end = row[START_NS], row[END_NS]
    return (end - start) / _NS if isinstance(end, int) else 0.0
