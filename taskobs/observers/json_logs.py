"""Log records as JSON: one object a line, with the fields of OpenTelemetry's log data model."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from taskobs.observers.log_entries import entry_of, severity_number
from taskobs.protocol.log_entries import MAX_BODY, LogEntry, cut
from taskobs.protocol.sanitize import UNEXPECTED

if TYPE_CHECKING:
    from taskobs.model import Run


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON; never raises."""

    def __init__(
        self,
        current_run: Callable[[], Run | None],
        resource: Callable[[], Mapping[str, object]],
    ) -> None:
        super().__init__()
        self._current_run, self._resource = current_run, resource

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        try:
            # The text is that of the app's own log: what it shows is for the app to say.
            entry = entry_of(record, self._current_run(), private=False)
            return as_json(entry, self._resource())
        except UNEXPECTED:  # a record that other code has filled with anything
            return as_json(_bare(record), {})


def as_json(entry: LogEntry, resource: Mapping[str, object]) -> str:
    """Return an entry as JSON. Times are texts: numbers as large lose digits in many parsers."""
    fields: dict[str, object] = {
        "Timestamp": str(entry.timestamp_ns),
        "ObservedTimestamp": str(entry.observed_ns),
    }
    if entry.trace_id:
        fields["TraceId"], fields["SpanId"] = entry.trace_id, entry.span_id
        fields["TraceFlags"] = entry.trace_flags
    fields["SeverityText"] = entry.severity_text
    fields["SeverityNumber"] = entry.severity_number
    fields["Body"] = entry.body
    fields["Resource"] = dict(resource)
    fields["InstrumentationScope"] = {"Name": entry.scope}
    fields["Attributes"] = dict(entry.attributes)
    # ASCII alone: a stream in another encoding takes it, and nothing in it ends a line.
    return json.dumps(_finite(fields), separators=(",", ":"))


def _finite(value: object) -> object:
    """Return a value without the numbers that JSON has no words for."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        items = cast("Mapping[str, object]", value).items()
        return {name: _finite(one) for name, one in items}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in cast("list[object]", value)]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


def _bare(record: logging.LogRecord) -> LogEntry:
    now = time.time_ns()
    level, name = record.levelno, cut(record.name, MAX_BODY)
    body = cut(record.msg, MAX_BODY) if isinstance(record.msg, str) else "?"
    return LogEntry(now, now, severity_number(level), record.levelname, body, "", "", 0, name, {})
