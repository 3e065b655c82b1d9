"""Makes of Jaeger's JSON the spans that a trace is assembled of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

from taskobs.testing.wire import MalformedError, ReceivedLink, ReceivedSpan

_CHILD_OF: Final = "CHILD_OF"
_TRACE_DIGITS: Final = 32
_SPAN_DIGITS: Final = 16
_NS_PER_US: Final = 1000


def spans_of(traces: Iterable[object]) -> list[ReceivedSpan]:
    """Return the spans of traces as the query API has them.

    Raises:
        MalformedError: they have another form.
    """
    try:
        return [span for trace in traces for span in _spans(cast("Mapping[str, Any]", trace))]
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise MalformedError(f"{type(error).__name__}: {error}") from error


def _spans(trace: Mapping[str, Any]) -> Iterator[ReceivedSpan]:
    processes: Mapping[str, Any] = trace.get("processes") or dict[str, Any]()
    for span in trace["spans"]:
        process: Mapping[str, Any] = processes.get(span.get("processID")) or dict[str, Any]()
        yield _span(span, str(process.get("serviceName", "")))


def _span(span: Mapping[str, Any], service: str) -> ReceivedSpan:
    tags = {str(tag["key"]): _value(tag) for tag in span.get("tags") or ()}
    trace_id, start = _id(span["traceID"], _TRACE_DIGITS), int(span["startTime"]) * _NS_PER_US
    found: Iterable[Mapping[str, Any]] = span.get("references") or ()
    references = [(str(one.get("refType")), _link(one)) for one in found]
    parents = [link.span_id for kind, link in references if kind == _CHILD_OF]
    failed = tags.get("error") is True or tags.get("otel.status_code") == "ERROR"
    return ReceivedSpan(
        trace_id=trace_id,
        span_id=_id(span["spanID"], _SPAN_DIGITS),
        parent_id=parents[0] if parents else "",
        name=str(span["operationName"]),
        kind=str(tags.get("span.kind", "internal")),
        start_ns=start,
        end_ns=start + int(span["duration"]) * _NS_PER_US,
        attributes=tags,
        links=tuple(link for kind, link in references if kind != _CHILD_OF),
        status="error" if failed else "unset",
        message=str(tags.get("otel.status_description", "")),
        resource={"service.name": service},
    )


def _link(reference: Mapping[str, Any]) -> ReceivedLink:
    """Return a reference, of whose attributes Jaeger keeps none."""
    return ReceivedLink(
        trace_id=_id(reference["traceID"], _TRACE_DIGITS),
        span_id=_id(reference["spanID"], _SPAN_DIGITS),
        attributes={},
    )


def _value(tag: Mapping[str, Any]) -> object:
    """Return a tag's value. JSON has no difference between 1 and 1.0, and Jaeger names the type."""
    value = tag.get("value")
    return float(value) if tag.get("type") == "float64" and value is not None else value


def _id(value: object, digits: int) -> str:
    """Return an id with the zeros that older releases of Jaeger leave out at its begin.

    Raises:
        ValueError: it is not hexadecimal.
    """
    return f"{int(str(value), 16):0{digits}x}"
