"""Check the keys of context values: see ``taskobs.config.checks``."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from typing import Final, cast

from taskobs import semconv
from taskobs.config.checks import Refused, ValueCheck, shown

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
"""What can be a keyword, a field of a log record, and the key of a tag in Sentry."""
_EXAMPLE: Final = ["tenant", "user_id"]
MOST_KEYS: Final = 32
_RECORD: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, None, None, None)))
RESERVED: Final = _RECORD | {
    *("message", "asctime", "taskName"),  # also of records, once they are formatted
    *(semconv.LOG_TASK_ID, semconv.LOG_TASK_NAME),
    *(semconv.LOG_TRACE_ID, semconv.LOG_SPAN_ID, semconv.LOG_TRACE_FLAGS),
    semconv.TAG_STOCK_TASK_ID,
    # What Sentry files an event by, and structlog a line.
    *("dist", "environment", "event", "level", "logger", "release", "server_name", "timestamp"),
    *("transaction", "user"),
}


def problem_of(name: object) -> str | None:
    """Return why something can't be a key of context values; None if it can."""
    if not isinstance(name, str):
        return "is not text"
    if not _NAME.fullmatch(name):
        return "is not a letter and up to 31 more letters, digits or underscores"
    if name in RESERVED:
        return "is the name of something else on spans, events or log records"
    return None


def _keys(value: object) -> frozenset[str]:
    """Return keys; text is split at commas."""
    if isinstance(value, str):
        items: list[object] = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, Collection) and not isinstance(value, (bytes, Mapping)):
        items = list(cast("Collection[object]", value))
    else:
        raise Refused("not a list of keys", _EXAMPLE)
    if len(items) > MOST_KEYS:
        raise Refused(f"more than {MOST_KEYS} keys", _EXAMPLE)
    for position, item in enumerate(items, start=1):
        problem = problem_of(item)
        if problem is not None:
            raise Refused(f"with a key that {problem}, in entry {position}", _EXAMPLE)
    return frozenset(cast("list[str]", items))


CONTEXT_KEYS = ValueCheck(_keys, shown)
