from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator

from taskobs.observers import propagation
from taskobs.observers.propagation import HeaderPropagator
from taskobs.otel._sdk_compat import parts_of

PARENT = trace.SpanContext(0xA, 0xB, is_remote=True, trace_flags=trace.TraceFlags(1))
TRACEPARENT = f"00-{0xA:032x}-{0xB:016x}-01"


@pytest.fixture(params=["short", "long"])
def propagator(request: pytest.FixtureRequest) -> HeaderPropagator:
    """Give one that may take the shorter ways, and one that can't."""
    return HeaderPropagator(parts_of) if request.param == "short" else HeaderPropagator()


def context_with(**members: str) -> Context:
    context = trace.set_span_in_context(trace.NonRecordingSpan(PARENT), Context())
    for name, value in members.items():
        context = baggage.set_baggage(name, value, context)
    return context


def test_what_is_injected_is_extracted(propagator: HeaderPropagator) -> None:
    """Trace and baggage come out of the headers as they went in."""
    headers: dict[str, object] = {}
    propagator.inject(headers, context_with(tenant="acme"))
    assert headers == {"traceparent": TRACEPARENT, "baggage": "tenant=acme"}
    texts = {name: str(value) for name, value in headers.items()}
    found, parent = propagator.extract(texts)
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


MORE: list[dict[str, str]] = [{}, {"tracestate": "a=1"}, {"tracestate": ""}, {"baggage": "k=v"}]


@pytest.mark.parametrize("traceparent", TRACEPARENTS)
def test_the_short_way_reads_as_the_propagator_does(
    propagator: HeaderPropagator, traceparent: str
) -> None:
    """Whatever a message carries, I get the parent that OpenTelemetry's own propagator reads."""
    for headers in ({"traceparent": traceparent, **more} for more in MORE):
        ours, parent = propagator.extract(headers)
        theirs = propagate.extract(headers, context=Context())
        found, expected = (trace.get_current_span(one).get_span_context() for one in (ours, theirs))
        assert found == parent == expected, headers
        assert (found.is_remote, found.trace_state) == (expected.is_remote, expected.trace_state)
        assert ours.keys() == theirs.keys()
        assert baggage.get_all(ours) == baggage.get_all(theirs)


@pytest.mark.parametrize("state", [None, trace.TraceState([("a", "1")])])
@pytest.mark.parametrize("members", [{}, {"tenant": "acme"}])
@pytest.mark.parametrize("ids", [(0xA, 0xB), (0, 0xB), (0xA, 0), (0, 0)])
def test_the_short_way_writes_as_the_propagator_does(
    propagator: HeaderPropagator,
    ids: tuple[int, int],
    members: dict[str, str],
    state: trace.TraceState | None,
) -> None:
    """Whatever is current, my messages carry what OpenTelemetry's own propagator writes."""
    parent = trace.SpanContext(
        *ids, is_remote=False, trace_flags=PARENT.trace_flags, trace_state=state
    )
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
    for name, value in members.items():
        context = baggage.set_baggage(name, value, context)
    headers: dict[str, object] = {"tracestate": "old=1", "traceparent": "old"}
    propagator.inject(headers, context)
    theirs: dict[str, str] = {}
    propagate.inject(theirs, context)
    assert headers == theirs


@dataclass
class Wrapper:
    """A propagator as Logfire's: a dataclass, which is comparable and so not hashable."""

    wrapped: TextMapPropagator

    @property
    def fields(self) -> set[str]:
        return self.wrapped.fields

    def extract(self, *args: Any, **named: Any) -> Context:
        return self.wrapped.extract(*args, **named)

    def inject(self, *args: Any, **named: Any) -> None:
        self.wrapped.inject(*args, **named)


class Bare:
    """A propagator that writes one header, and says so to nobody."""

    def extract(self, carrier: Any, context: Context, getter: Any) -> Context:
        found = getter.get(carrier, "x-tenant")
        return baggage.set_baggage("tenant", found[0], context) if found else context

    def inject(self, carrier: Any, context: Context, setter: Any) -> None:
        setter.set(carrier, "x-tenant", str(baggage.get_baggage("tenant", context)))

    def __eq__(self, other: object) -> bool:
        raise TypeError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture
def as_global() -> Generator[Callable[[Any], None]]:
    before = propagate.get_global_textmap()
    yield propagate.set_global_textmap
    propagate.set_global_textmap(before)


def test_a_propagator_that_cannot_be_hashed_works(
    propagator: HeaderPropagator, as_global: Callable[[Any], None]
) -> None:
    """I set a propagator of any class, as other libraries do for me, and traces go on."""
    as_global(Wrapper(propagate.get_global_textmap()))
    headers: dict[str, object] = {"tracestate": "old=1"}
    for _ in range(2):
        propagator.inject(headers, context_with(tenant="acme"))
        assert headers == {"traceparent": TRACEPARENT, "baggage": "tenant=acme"}
        found, parent = propagator.extract(headers)
        assert parent == PARENT
        assert baggage.get_all(found) == {"tenant": "acme"}


def test_a_propagator_is_used_from_when_it_is_set(
    propagator: HeaderPropagator, as_global: Callable[[Any], None]
) -> None:
    """I set it after the first task, and the next one already uses it."""
    headers: dict[str, object] = {}
    propagator.inject(headers, context_with(tenant="acme"))
    as_global(Bare())
    propagator.inject(headers, context_with(tenant="other"))
    assert headers["x-tenant"] == "other"
    assert baggage.get_all(propagator.extract(headers)[0]) == {"tenant": "other"}


def test_an_earlier_attempt_s_trace_is_replaced(propagator: HeaderPropagator) -> None:
    """Headers that a retry inherits don't mix with the new ones."""
    headers: dict[str, object] = {"traceparent": "old", "tracestate": "old=1", "mine": 1}
    propagator.inject(headers, context_with())
    assert headers == {"traceparent": TRACEPARENT, "mine": 1}


@pytest.mark.parametrize("before", [["a=1"], {"a": 1}, 7, None, ""])
def test_a_baggage_that_is_no_text_is_replaced(
    propagator: HeaderPropagator, before: object
) -> None:
    """A baggage header that is no text does no harm."""
    headers: dict[str, object] = {"baggage": before}
    propagator.inject(headers, context_with(tenant="acme"))
    assert headers["baggage"] == "tenant=acme"


def test_merged_baggage_is_bounded(propagator: HeaderPropagator) -> None:
    """Merged baggage stays within the limits of W3C, and mine comes first."""
    headers: dict[str, object] = {"baggage": ",".join(f"k{i}={'v' * 50}" for i in range(1_000))}
    propagator.inject(headers, context_with(tenant="acme"))
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
