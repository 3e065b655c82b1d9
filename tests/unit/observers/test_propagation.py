from __future__ import annotations

import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context

from taskobs.observers import propagation

PARENT = trace.SpanContext(0xA, 0xB, is_remote=True, trace_flags=trace.TraceFlags(1))
TRACEPARENT = f"00-{0xA:032x}-{0xB:016x}-01"


def context_with(**members: str) -> Context:
    context = trace.set_span_in_context(trace.NonRecordingSpan(PARENT), Context())
    for name, value in members.items():
        context = baggage.set_baggage(name, value, context)
    return context


def test_what_is_injected_is_extracted() -> None:
    """Trace and baggage come out of the headers as they went in."""
    headers: dict[str, object] = {}
    propagation.inject(headers, context_with(tenant="acme"))
    assert headers == {"traceparent": TRACEPARENT, "baggage": "tenant=acme"}
    texts = {name: str(value) for name, value in headers.items()}
    found, parent = propagation.extract(texts)
    assert trace.get_current_span(found).get_span_context() == parent == PARENT
    assert baggage.get_all(found) == {"tenant": "acme"}


A, B = "a" * 32, "b" * 16
TRACEPARENTS = [
    *(f"00-{A}-{B}-{flags}" for flags in ("00", "01", "02", "03", "ff", "0", "001", "0g", "0A")),
    *(f"{version}-{A}-{B}-01" for version in ("01", "cc", "ff", "FF", "0", "000", "")),
    *(f"00-{A}-{B}-01{rest}" for rest in ("-", "-x", "\n", " ", "\t", "x")),
    *(f"{before}00-{A}-{B}-01" for before in (" ", "\t", "\n", "x")),
    *(f"cc-{A}-{B}-01{rest}" for rest in ("-", "-x", " ", "x")),
    *(f"00-{trace_id}-{B}-01" for trace_id in ("0" * 32, "A" * 32, "a" * 31, "a" * 33, "٣" * 32)),
    *(f"00-{A}-{span_id}-01" for span_id in ("0" * 16, "B" * 16, "b" * 15, "+" + "b" * 15)),
    *("", "☃", "00", f"00{A}{B}01", "00-" + "f" * 1_000),
]


@pytest.mark.parametrize(
    "more", [{}, {"tracestate": "a=1"}, {"tracestate": ""}, {"baggage": "k=v"}]
)
@pytest.mark.parametrize("traceparent", TRACEPARENTS)
def test_the_short_way_reads_as_the_propagator_does(traceparent: str, more: dict[str, str]) -> None:
    """Whatever a message carries, I get the parent that OpenTelemetry's own propagator reads."""
    headers = {"traceparent": traceparent, **more}
    ours, parent = propagation.extract(headers)
    theirs = propagate.extract(headers, context=Context())
    found, expected = (trace.get_current_span(one).get_span_context() for one in (ours, theirs))
    assert found == parent == expected
    assert (found.is_remote, found.trace_state) == (expected.is_remote, expected.trace_state)
    assert ours.keys() == theirs.keys()
    assert baggage.get_all(ours) == baggage.get_all(theirs)


@pytest.mark.parametrize("state", [None, trace.TraceState([("a", "1")])])
@pytest.mark.parametrize("members", [{}, {"tenant": "acme"}])
@pytest.mark.parametrize("ids", [(0xA, 0xB), (0, 0xB), (0xA, 0), (0, 0)])
def test_the_short_way_writes_as_the_propagator_does(
    ids: tuple[int, int], members: dict[str, str], state: trace.TraceState | None
) -> None:
    """Whatever is current, my messages carry what OpenTelemetry's own propagator writes."""
    parent = trace.SpanContext(
        *ids, is_remote=False, trace_flags=PARENT.trace_flags, trace_state=state
    )
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
    for name, value in members.items():
        context = baggage.set_baggage(name, value, context)
    headers: dict[str, object] = {"tracestate": "old=1", "traceparent": "old"}
    propagation.inject(headers, context)
    theirs: dict[str, str] = {}
    propagate.inject(theirs, context)
    assert headers == theirs


def test_an_earlier_attempt_s_trace_is_replaced() -> None:
    """Headers that a retry inherits don't mix with the new ones."""
    headers: dict[str, object] = {"traceparent": "old", "tracestate": "old=1", "mine": 1}
    propagation.inject(headers, context_with())
    assert headers == {"traceparent": TRACEPARENT, "mine": 1}


@pytest.mark.parametrize("before", [["a=1"], {"a": 1}, 7, None, ""])
def test_a_baggage_that_is_no_text_is_replaced(before: object) -> None:
    """A baggage header that is no text does no harm."""
    headers: dict[str, object] = {"baggage": before}
    propagation.inject(headers, context_with(tenant="acme"))
    assert headers["baggage"] == "tenant=acme"


def test_merged_baggage_is_bounded() -> None:
    """Merged baggage stays within the limits of W3C, and mine comes first."""
    headers: dict[str, object] = {"baggage": ",".join(f"k{i}={'v' * 50}" for i in range(1_000))}
    propagation.inject(headers, context_with(tenant="acme"))
    merged = str(headers["baggage"])
    assert merged.startswith("tenant=acme,k0=")
    assert len(merged) <= 8192
    assert merged.count(",") < 180


def test_links_come_back() -> None:
    """Links are read as they were written."""
    text = propagation.write_links([("retry_of", TRACEPARENT), ("publish", TRACEPARENT)])
    found = propagation.read_links(text)
    assert [(link.context.trace_id, link.context.span_id) for link in found] == [(0xA, 0xB)] * 2
    assert [dict(link.attributes or {}) for link in found] == [
        {"celery.link": "retry_of"},
        {"celery.link": "publish"},
    ]


def test_at_most_as_many_links_as_a_span_holds() -> None:
    """However many are given, a span's limit of links is kept."""
    text = propagation.write_links([("retry_of", TRACEPARENT)] * 10_000)
    assert len(propagation.read_links(text)) == 128
    assert len(propagation.read_links(",".join([f"x:{TRACEPARENT}"] * 10_000))) == 128


@pytest.mark.parametrize("text", [None, "", ",", ":", "x:", "x:1-2-3-4", "x:00-" + "g" * 32 + "-"])
def test_malformed_links_are_left_out(text: str | None) -> None:
    """What is no link is none."""
    assert propagation.read_links(text) == []
