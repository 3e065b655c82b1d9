"""Turns packed log records into what the SDK's log exporters take.

Those read attributes of records, and have no base class that stays the same: it has another name
and other parts in each release (seen in 1.28 to 1.45). So the records here have all attributes that
any of these releases reads.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import TraceFlags
from opentelemetry.util.types import AttributeValue

from taskobs.protocol import validation
from taskobs.protocol.frames import FrameError
from taskobs.protocol.log_entries import unpack_entry
from taskobs.protocol.validation import MalformedError

_SCOPES: Final = 512
_MAX_SEVERITY: Final = 24


class Severity(NamedTuple):
    """A severity number, as the SDK's enumeration has it."""

    value: int


class DecodedLog:
    """A log record that was made in another process, or earlier."""

    __slots__ = (
        *("attributes", "body", "dropped_attributes", "event_name", "instrumentation_scope"),
        *("observed_timestamp", "resource", "severity_number", "severity_text", "span_id"),
        *("timestamp", "trace_flags", "trace_id"),
    )
    attributes: dict[str, AttributeValue]
    body: str
    dropped_attributes: int
    event_name: None
    instrumentation_scope: InstrumentationScope
    observed_timestamp: int
    resource: Resource
    severity_number: Severity
    severity_text: str
    span_id: int
    timestamp: int
    trace_flags: TraceFlags
    trace_id: int

    @property
    def log_record(self) -> DecodedLog:
        """The record itself, beside which exporters look for its resource and scope."""
        return self


class LogDecoder:
    """Decodes log records, and keeps one object for each scope. Not thread-safe."""

    def __init__(self) -> None:
        self._scopes: dict[str, InstrumentationScope] = {}

    def log(self, payload: bytes, resource: Resource) -> DecodedLog:
        """Return a record.

        Raises:
            MalformedError: the payload is malformed.
        """
        try:
            return self._log(payload, resource)
        except MalformedError:
            raise
        except (FrameError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise MalformedError(f"{type(error).__name__}: {error}") from error

    def _log(self, payload: bytes, resource: Resource) -> DecodedLog:
        entry, log = unpack_entry(payload), DecodedLog()
        log.timestamp = validation.number(entry.timestamp_ns)
        log.observed_timestamp = validation.number(entry.observed_ns)
        log.severity_number = Severity(min(validation.count(entry.severity_number), _MAX_SEVERITY))
        log.severity_text, log.body = entry.severity_text, entry.body
        log.trace_id = int.from_bytes(bytes.fromhex(entry.trace_id)[:16], "big")
        log.span_id = int.from_bytes(bytes.fromhex(entry.span_id)[:8], "big")
        log.trace_flags = TraceFlags(validation.count(entry.trace_flags) & 0xFF)
        log.attributes = validation.attributes(dict(entry.attributes))
        log.dropped_attributes = validation.count(entry.dropped_attributes)
        log.event_name, log.resource = None, resource
        log.instrumentation_scope = self._scope(entry.scope)
        return log

    def _scope(self, name: str) -> InstrumentationScope:
        found = self._scopes.get(name)
        if found is None:
            if len(self._scopes) >= _SCOPES:
                self._scopes.clear()
            found = self._scopes[name] = InstrumentationScope(name)
        return found
