from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

import pytest
import sentry_sdk
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from sentry_sdk.envelope import Envelope, Item
from sentry_sdk.transport import Transport

from taskobs.internal.guard import Guard
from taskobs.otel.fast_provider import FastSpanProvider
from taskobs.otel.relay_processor import RelayProcessor
from taskobs.protocol import envelopes
from taskobs.protocol.frames import MAX_FRAME, FrameKind, pack, unpack
from taskobs.protocol.span_decoder import SpanDecoder
from taskobs.protocol.span_encoder import ATTRIBUTES, NAME, split, unpack_row
from taskobs.relay_client import connection
from taskobs.relay_client.client import RelayClient
from taskobs.sentry.relay_transport import RelayTransport
from tests.support.relay_peer import Peer
from tests.support.sentry import DSN, Kept

RESOURCE_BLOB: dict[str, object] = {"resource": {"service.name": "shop"}, "schema_url": ""}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a client connect as often as it likes."""
    monkeypatch.setattr(connection, "_TRY_EVERY", 0.0)


@pytest.fixture
def client(peer: Peer) -> Generator[RelayClient]:
    """Give a client that has not connected yet."""
    client = RelayClient(peer.address, lambda: RESOURCE_BLOB, idle_thread=False)
    yield client
    client.close()


class Direct(SpanProcessor):
    """Keeps what it is given, and says whether it was told to flush and stop."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.services: set[object] = set()
        self.told: list[str] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.names.append(span.name)
        self.services.add(span.resource.attributes["service.name"])

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self.told.append(f"flush {timeout_millis}")
        return True

    def shutdown(self) -> None:
        self.told.append("shutdown")


# Spans.


class Tracing(Protocol):
    def __call__(self, spans: RelayProcessor, sampler: Sampler | None = None) -> TracerProvider: ...


@pytest.fixture(params=["light", "the SDK's own"])
def tracing(request: pytest.FixtureRequest) -> Tracing:
    """Give what makes a provider for spans of either kind: it makes no difference."""

    def made(spans: RelayProcessor, sampler: Sampler | None = None) -> TracerProvider:
        provider = FastSpanProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(spans)
        if request.param == "light":
            provider.route_to(spans)
        return provider

    return made


def test_a_span_is_sent_at_its_start_and_at_its_end(
    peer: Peer, client: RelayClient, tracing: Tracing
) -> None:
    """When it starts, with what is known then, and when it ends, with the rest."""
    tracer = tracing(RelayProcessor(client, Direct())).get_tracer("shop")
    span = tracer.start_span("run shop.pay", attributes={"a": 1})
    relay = peer.accept()
    start = split(relay.wait_for(FrameKind.START)[0].payload)
    assert not relay.of(FrameKind.END)
    span.set_attribute("b", 2)
    span.end()
    end = split(relay.wait_for(FrameKind.END)[0].payload)
    assert start[0] == end[0]
    assert unpack(start[1])[ATTRIBUTES] == {"a": 1}
    assert unpack_row(end[1])[ATTRIBUTES] == {"a": 1, "b": 2}


def test_a_span_of_many_events_arrives(
    peer: Peer, client: RelayClient, tracing: Tracing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I allow my spans as many events as I like: they come, with the last ones and a count."""
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "20000")
    span = tracing(RelayProcessor(client, Direct())).get_tracer("shop").start_span("run shop.pay")
    for index in range(12_000):
        span.add_event(f"e{index}", {"n": index})
    span.end()
    end = split(peer.accept().wait_for(FrameKind.END)[0].payload)[1]
    arrived = SpanDecoder().span(end, pack([RESOURCE_BLOB["resource"], ""]))
    assert len(arrived.events) + arrived.dropped_events == 12_000
    assert len(arrived.events) > 9_000
    assert arrived.events[-1].name == "e11999"


class RecordOnly(Sampler):
    """Has spans recorded in this process and not exported."""

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_ONLY)

    def get_description(self) -> str:
        return "record only"


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, RecordOnly()])
def test_what_is_sampled_out_is_not_sent(
    peer: Peer, client: RelayClient, sampler: Sampler, tracing: Tracing
) -> None:
    """Not even that it has started."""
    tracing(RelayProcessor(client, Direct()), sampler).get_tracer("shop").start_span("x").end()
    client.send(FrameKind.LOG, b"")
    relay = peer.accept()
    relay.wait_for(FrameKind.LOG)
    assert [frame.kind for frame in relay.frames] == [FrameKind.HELLO, FrameKind.LOG]


def test_the_direct_pipeline_takes_over_when_the_relay_is_unavailable(
    peer: Peer, client: RelayClient, tracing: Tracing
) -> None:
    """Also what the relay may not have got, once each; and what was open goes there at its end."""
    direct = Direct()
    spans = RelayProcessor(client, direct)
    tracer = tracing(spans).get_tracer("shop")
    tracer.start_span("with the relay, perhaps").end()
    opened = tracer.start_span("open meanwhile")
    relay = peer.accept()
    relay.wait_for(FrameKind.START, 2)
    assert not direct.names
    peer.stop_listening()
    relay.close()
    tracer.start_span("after").end()
    tracer.start_span("later").end()
    opened.end()
    assert sorted(direct.names) == ["after", "later", "open meanwhile", "with the relay, perhaps"]
    assert "shop" in direct.services
    assert spans.force_flush(1_000)
    spans.shutdown()
    assert direct.told == ["flush 1000", "shutdown"]


def test_a_flush_finds_the_relay_unavailable(
    peer: Peer, client: RelayClient, tracing: Tracing
) -> None:
    """It flushes the direct pipeline then, with what the relay did not receive."""
    direct = Direct()
    spans = RelayProcessor(client, direct)
    tracing(spans).get_tracer("shop").start_span("x").end()
    peer.stop_listening()
    assert spans.force_flush(1_000)
    assert direct.names == ["x"]
    assert direct.told == ["flush 1000"]


def test_a_span_that_cannot_be_sent_does_not_break_the_task(client: RelayClient) -> None:
    """It is logged once; with `strict` it raises."""
    guard = Guard()
    spans = RelayProcessor(client, Direct(), guard=guard)
    broken: Any = object()
    spans.on_start(broken)
    spans.on_end(broken)
    assert sum(guard.counts.values()) == 2
    guard.strict = True
    with pytest.raises(AttributeError):
        spans.on_end(broken)


def test_a_time_limit_that_strikes_is_not_swallowed(
    client: RelayClient, monkeypatch: pytest.MonkeyPatch, tracing: Tracing
) -> None:
    """The task gets it: it is no trouble of telemetry."""

    class SoftTimeLimitExceededError(Exception):
        pass

    def strike(*_: object) -> bytes:
        raise SoftTimeLimitExceededError

    span = tracing(RelayProcessor(client, Direct())).get_tracer("shop").start_span("x")
    monkeypatch.setattr("taskobs.otel.relay_processor.pack_end", strike)
    monkeypatch.setattr("taskobs.otel.relay_processor.pack", strike)
    with pytest.raises(SoftTimeLimitExceededError):
        span.end()


# Sentry.


def sentry(transport: Transport) -> sentry_sdk.Client:
    return sentry_sdk.Client(
        dsn=DSN, transport=transport, default_integrations=False, auto_enabling_integrations=False
    )


def options(**changes: object) -> dict[str, Any]:
    return {**sentry_sdk.Client(dsn=DSN, default_integrations=False).options, **changes}


def test_an_event_goes_to_the_relay(peer: Peer, client: RelayClient) -> None:
    """It says where it goes: the relay, or the next one, needs to know nothing else."""
    errors = sentry(
        RelayTransport(client, options(http_proxy="http://proxy", send_client_reports=False))
    )
    errors.capture_event({"message": "one"})
    errors.capture_event({"message": "two"})
    relay = peer.accept()
    frames = relay.wait_for(FrameKind.ENVELOPE, 2)
    parts = [envelopes.split(frame.payload) for frame in frames]
    told = [unpack(destination) for destination, _ in parts]
    assert [one["dsn"] for one in told] == [DSN, DSN]
    assert told[1]["options"]["http_proxy"] == "http://proxy"
    assert told[1]["options"]["send_client_reports"] is False
    events = [Envelope.deserialize(envelope).get_event() for _, envelope in parts]
    assert [event and event.get("message") for event in events] == ["one", "two"]
    errors.flush(timeout=1)
    errors.close(timeout=1)


def test_two_clients_are_distinguished(peer: Peer, client: RelayClient) -> None:
    """Each envelope goes where its own client would have sent it."""
    first = RelayTransport(client, options())
    second = RelayTransport(client, options(dsn="http://other@127.0.0.1:9/2"))
    sentry(first).capture_event({"message": "one"})
    sentry(second).capture_event({"message": "two"})
    relay = peer.accept()
    frames = relay.wait_for(FrameKind.ENVELOPE, 2)
    told = [unpack(envelopes.split(frame.payload)[0])["dsn"] for frame in frames]
    assert told == [DSN, "http://other@127.0.0.1:9/2"]


def test_an_envelope_that_is_too_long_loses_its_longest_part(
    peer: Peer, client: RelayClient
) -> None:
    """An attachment of some megabytes does not cost the event."""
    envelope = Envelope()
    envelope.add_event({"message": "kept"})
    envelope.add_item(Item(payload=bytes(MAX_FRAME), type="attachment"))
    envelope.add_item(Item(payload=b"small", type="attachment"))
    RelayTransport(client, options()).capture_envelope(envelope)
    payload = peer.accept().wait_for(FrameKind.ENVELOPE)[0].payload
    arrived = Envelope.deserialize(envelopes.split(payload)[1])
    assert sorted(str(item.type) for item in arrived.items) == ["attachment", "event"]


def test_sentrys_own_transport_takes_over_when_the_relay_is_unavailable(
    peer: Peer, client: RelayClient
) -> None:
    """It gets what the relay may not have got, then the rest, and is flushed and stopped."""
    kept: list[Kept] = []

    def stock(given: dict[str, Any]) -> Transport:
        assert given["transport"] is None
        kept.append(Kept(given))
        return kept[-1]

    transport = RelayTransport(client, options(), stock=stock)
    errors = sentry(transport)
    errors.capture_event({"message": "with the relay, perhaps"})
    relay = peer.accept()
    relay.wait_for(FrameKind.ENVELOPE)
    assert not kept
    peer.stop_listening()
    relay.close()
    errors.capture_event({"message": "after"})
    errors.capture_event({"message": "later"})
    assert [event["message"] for event in kept[0].events] == [
        "with the relay, perhaps",
        "after",
        "later",
    ]
    assert len(kept) == 1
    errors.flush(timeout=1)
    assert transport.is_healthy()
    transport.kill()
    transport.after_fork()
    errors.capture_event({"message": "in a child"})
    assert len(kept) == 2


def test_an_envelope_that_cannot_be_sent_does_not_break_the_task(client: RelayClient) -> None:
    """It is logged once."""
    guard = Guard()
    broken: Any = object()
    RelayTransport(client, options(), guard=guard).capture_envelope(broken)
    assert sum(guard.counts.values()) == 1


def test_names_of_spans_arrive(peer: Peer, client: RelayClient, tracing: Tracing) -> None:
    """Also when they were changed after the start."""
    span = (
        tracing(RelayProcessor(client, Direct()))
        .get_tracer("shop")
        .start_span("publish celery.map")
    )
    span.update_name("publish shop.pay")
    span.end()
    end = split(peer.accept().wait_for(FrameKind.END)[0].payload)[1]
    assert unpack_row(end)[NAME] == "publish shop.pay"
