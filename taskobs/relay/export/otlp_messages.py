"""What the bodies of OTLP/HTTP responses say: an error, or how much of a batch was dropped.

https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from taskobs.internal.causes import masked
from taskobs.relay.export.responses import ExportResult, ExportStatus

REJECTED: Final = "rejected by the backend"
REJECTED_FIELDS: Final = {"traces": "rejected_spans", "logs": "rejected_log_records"}
"""The field of a partial success that has the number of what was dropped, by signal."""
SAID: Final = 200
"""How much of a backend's text is logged."""


def error_message(body: bytes, content_type: str, secrets: Iterable[str] = ()) -> str:
    """Return the message of an error, without secrets.

    It is that of a ``google.rpc.Status``, or a proxy's text.
    """
    message = ""
    if "protobuf" in content_type:
        message = _status_message(body)
    elif "json" in content_type:
        message = _json_message(body)
    text = message or body[: SAID * 4].decode("utf-8", "replace")
    printable = "".join(character if character.isprintable() else " " for character in text)
    # Masked before it is cut: a part of a secret would not be found.
    return masked(" ".join(printable.split()), secrets)[:SAID]


def partial_success(body: bytes, content_type: str, signal: str) -> ExportResult:
    """Return the result of an accepted batch: how much of it the backend has dropped, and why."""
    rejected, message = 0, ""
    if body and "json" in content_type:
        rejected, message = _json_partial(body)
    elif body and signal in REJECTED_FIELDS:
        rejected, message = _protobuf_partial(body, signal)
    return ExportResult(ExportStatus.SUCCESS, REJECTED, message[:SAID], rejected=rejected)


def _status_message(body: bytes) -> str:
    from google.protobuf.message import DecodeError
    from google.rpc.status_pb2 import Status

    status = Status()
    try:
        status.ParseFromString(body)
    except DecodeError:
        return ""
    return str(status.message)


def _json_message(body: bytes) -> str:
    try:
        found: Any = json.loads(body)
        return str(found.get("message") or "")
    except (ValueError, AttributeError, RecursionError):
        return ""


def _protobuf_partial(body: bytes, signal: str) -> tuple[int, str]:
    from google.protobuf.message import DecodeError

    response = _response_of(signal)
    try:
        response.ParseFromString(body)
    except DecodeError:
        return 0, ""  # some backend's own text
    partial = response.partial_success
    return max(0, getattr(partial, REJECTED_FIELDS[signal])), partial.error_message


def _response_of(signal: str) -> Any:  # noqa: ANN401  # one of two messages
    if signal == "logs":
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

        return logs_service_pb2.ExportLogsServiceResponse()
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    return trace_service_pb2.ExportTraceServiceResponse()


def _json_partial(body: bytes) -> tuple[int, str]:
    try:
        partial: Any = json.loads(body)["partialSuccess"]
        rejected = partial.get("rejectedSpans", 0) or partial.get("rejectedLogRecords", 0)
        return max(0, int(rejected)), str(partial.get("errorMessage", ""))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return 0, ""
