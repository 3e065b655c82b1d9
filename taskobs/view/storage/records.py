"""What is kept of a span, a Sentry event or a log record: encoded, without secrets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from taskobs import semconv
from taskobs.testing.wire import ReceivedLink, ReceivedMoment, ReceivedSpan
from taskobs.view.issues import Frame, Issue, Raised, issue
from taskobs.view.storage.masking import masked
from taskobs.view.traces import NS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskobs.testing.wire import ReceivedEvent, ReceivedLog

Kind: TypeAlias = Literal["span", "event", "log"]
SERVICE: Final = "service.name"


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it is kept."""

    kind: Kind
    key: str
    """The same for a record that is sent twice, and for no two others of a trace."""
    body: bytes
    """JSON: encoded, a record takes less memory, and its size is known."""


def span_record(span: ReceivedSpan) -> Record:
    """Encode a span."""
    values = asdict(span) | {"resource": {SERVICE: _service(span.resource)}}
    return Record("span", f"span {span.span_id}", _encoded(masked(values)))


def span_of(body: bytes) -> ReceivedSpan:
    """Decode a span."""
    values: dict[str, Any] = json.loads(body)
    values["events"] = tuple(ReceivedMoment(**one) for one in values["events"])
    values["links"] = tuple(ReceivedLink(**one) for one in values["links"])
    return ReceivedSpan(**values)


def event_record(event: ReceivedEvent) -> tuple[Issue, Record]:
    """Encode what the page shows of an event: its title, tags and frames."""
    body = _encoded(masked(asdict(issue(event))))
    return issue_of(body), Record("event", f"event {event.event_id}", body)


def issue_of(body: bytes) -> Issue:
    """Decode what the page shows of an event."""
    values: dict[str, Any] = json.loads(body)
    values["exceptions"] = [_raised(**one) for one in values["exceptions"]]
    return Issue(**values)


def _raised(frames: list[dict[str, Any]], **values: str) -> Raised:
    return Raised(**values, frames=[Frame(**frame) for frame in frames])


def log_record(log: ReceivedLog) -> Record:
    """Encode a log record; OTLP has no ids for them, so its times and its text stand for it."""
    line = {
        "seconds": (log.time_ns or log.observed_ns) / NS_PER_SECOND,
        "level": log.severity_text,
        "severity": log.severity,
        "logger": log.scope,
        "text": str(log.body),
        "span_id": log.span_id,
        "task_id": str(log.attributes.get(semconv.LOG_TASK_ID, "")),
        "stack": str(log.attributes.get(semconv.RECORD_EXCEPTION_STACKTRACE, "")),
        "service": _service(log.resource),
    }
    body = _encoded(masked(line))
    pid = log.attributes.get(semconv.PROCESS_PID)
    same = f"{pid} {log.time_ns} {log.observed_ns} ".encode() + body
    return Record("log", f"log {hashlib.sha256(same).hexdigest()[:32]}", body)


def log_of(body: bytes) -> dict[str, Any]:
    """Decode a log record."""
    line: dict[str, Any] = json.loads(body)
    return line


def _service(resource: Mapping[str, object]) -> str:
    return str(resource.get(SERVICE, ""))


def _encoded(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=str).encode()
