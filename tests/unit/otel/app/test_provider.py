"""The app's own provider: which of its exporters a relay replaces, and what stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from importlib.metadata import version
from typing import Any

import pytest
import requests
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    ConcurrentMultiSpanProcessor,
    ReadableSpan,
    SpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from packaging.version import Version
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from taskobs.internal.guard import Guard
from taskobs.otel.app._compat import processors_of
from taskobs.otel.app.exporters import settings_of
from taskobs.otel.app.provider import AppTraceProvider
from taskobs.protocol.frames import FrameKind, unpack
from taskobs.protocol.span_encoder import NAME, split
from taskobs.protocol.span_routes import parse, route_for, route_of
from taskobs.relay_client import connection
from taskobs.relay_client.client import RelayClient
from tests.support.relay_peer import Peer

ENDPOINT = "http://127.0.0.1:9/v1/traces"
OWN = Resource({"service.name": "own"})
KEEPS_SETTINGS = Version(version("opentelemetry-exporter-otlp-proto-grpc")) >= Version("1.40")
FROM_1_40 = pytest.mark.skipif(
    not KEEPS_SETTINGS, reason="before 1.40 the exporter doesn't keep whether it uses TLS"
)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a client connect as often as it likes."""
    monkeypatch.setattr(connection, "_TRY_EVERY", 0.0)


@pytest.fixture
def client(peer: Peer) -> Generator[RelayClient]:
    """Give a client that has not connected yet."""
    client = RelayClient(peer.address, dict, idle_thread=False)
    yield client
    client.close()


class Kept(SpanProcessor):
    """Keeps the names of the spans that it sees."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.flushed = 0

    def on_end(self, span: ReadableSpan) -> None:
        self.names.append(span.name)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        del timeout_millis
        self.flushed += 1
        return True


class Discarding(SpanExporter):
    """Exports nothing, well."""

    def export(self, spans: Any) -> SpanExportResult:
        del spans
        return SpanExportResult.SUCCESS


@pytest.fixture
def made() -> Generator[Callable[..., TracerProvider]]:
    """Make providers, which are shut down at the end."""
    providers: list[TracerProvider] = []

    def make(*processors: SpanProcessor, **options: Any) -> TracerProvider:
        provider = TracerProvider(resource=OWN, shutdown_on_exit=False, **options)
        for one in processors:
            provider.add_span_processor(one)
        providers.append(provider)
        return provider

    yield make
    for provider in providers:
        provider.shutdown()


def exporter(**options: Any) -> OTLPSpanExporter:
    return OTLPSpanExporter(endpoint=ENDPOINT, **options)


def simple(**options: Any) -> SimpleSpanProcessor:
    return SimpleSpanProcessor(exporter(**options))


def settings(processor: SpanProcessor) -> dict[str, Any]:
    packed = settings_of(processor)
    assert packed is not None
    found: dict[str, Any] = unpack(packed)
    return found


# What a relay can replace.


def test_the_settings_of_an_exporter_over_http() -> None:
    """All that I gave my exporter is what the relay exports with."""
    found = settings(
        simple(
            headers={"x-key": "secret"},
            timeout=3,
            compression=Compression.Gzip,
            certificate_file="/ca.pem",
            client_key_file="/key.pem",
            client_certificate_file="/cert.pem",
        )
    )
    assert found.pop("headers").items() >= {"x-key": "secret"}.items()
    assert found == {
        "protocol": "http/protobuf",
        "endpoint": ENDPOINT,
        "timeout": 3.0,
        "compression": "gzip",
        "certificate_file": "/ca.pem",
        "client_key_file": "/key.pem",
        "client_certificate_file": "/cert.pem",
    }


def test_the_settings_of_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What my exporter read from OpenTelemetry's variables counts, too."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "4")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9/base")
    found = settings(SimpleSpanProcessor(OTLPSpanExporter()))
    assert found["headers"]["x-key"] == "secret"
    assert (found["timeout"], found["endpoint"]) == (4.0, "http://127.0.0.1:9/base/v1/traces")


@FROM_1_40
def test_the_settings_of_an_exporter_over_grpc() -> None:
    """The same over gRPC, without TLS."""
    given: Any = GrpcExporter(endpoint="http://127.0.0.1:9", headers={"x-key": "secret"}, timeout=3)
    found = settings(SimpleSpanProcessor(given))
    assert (found["protocol"], found["endpoint"], found["insecure"]) == (
        "grpc",
        "127.0.0.1:9",
        True,
    )
    assert found["headers"]["x-key"] == "secret"
    given.shutdown()


@pytest.mark.skipif(KEEPS_SETTINGS, reason="about the exporter before 1.40")
def test_an_exporter_over_grpc_that_keeps_no_settings() -> None:
    """Whether my older exporter uses TLS can't be told: it goes on exporting by itself."""
    given: Any = GrpcExporter(endpoint="http://127.0.0.1:9")
    assert settings_of(SimpleSpanProcessor(given)) is None
    given.shutdown()


def test_a_batch_processor(made: Callable[..., TracerProvider]) -> None:
    """The processor that most apps have."""
    batch = BatchSpanProcessor(exporter())
    made(batch)
    assert settings(batch)["endpoint"] == ENDPOINT


# What goes on exporting by itself.


class OwnExporter(OTLPSpanExporter):
    """A subclass, which may do anything."""


class OwnProcessor(SimpleSpanProcessor):
    """A subclass, which may do anything."""


class OwnSession(requests.Session):
    """A subclass, which may do anything."""


def session(**fields: object) -> requests.Session:
    made = requests.Session()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def mounted() -> requests.Session:
    made = requests.Session()
    made.mount("http://127.0.0.1", HTTPAdapter())
    return made


def retrying() -> requests.Session:
    made = requests.Session()
    made.mount("http://", HTTPAdapter(max_retries=3))
    return made


def patched() -> SimpleSpanProcessor:
    given = exporter()
    given.export = lambda spans: SpanExportResult.SUCCESS  # type: ignore[method-assign]  # noqa: ARG005
    return SimpleSpanProcessor(given)


def secure_grpc() -> SimpleSpanProcessor:
    return SimpleSpanProcessor(GrpcExporter(endpoint="https://127.0.0.1:9"))


LEFT_ALONE: dict[str, Callable[[], SpanProcessor]] = {
    "exporter": lambda: SimpleSpanProcessor(OwnExporter(endpoint=ENDPOINT)),
    "processor": lambda: OwnProcessor(exporter()),
    "session": lambda: simple(session=OwnSession()),
    "auth": lambda: simple(session=session(auth=HTTPBasicAuth("me", "secret"))),
    "proxies": lambda: simple(session=session(proxies={"http": "http://127.0.0.1:9"})),
    "trust_env": lambda: simple(session=session(trust_env=False)),
    "request": lambda: simple(session=session(request=print)),
    "mounted": lambda: simple(session=mounted()),
    "retrying": lambda: simple(session=retrying()),
    "console": lambda: SimpleSpanProcessor(ConsoleSpanExporter()),
    "discarding": lambda: SimpleSpanProcessor(Discarding()),
    "patched": patched,
    "secure gRPC": secure_grpc,
    "no exporter": Kept,
}


@pytest.mark.parametrize("what", LEFT_ALONE)
def test_what_a_relay_can_not_replace(what: str) -> None:
    """My own session, credentials or subclass goes on exporting, as only it knows how."""
    processor = LEFT_ALONE[what]()
    assert settings_of(processor) is None
    processor.shutdown()


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (OTLPSpanExporter, "export"),
        pytest.param(GrpcExporter, "export", marks=FROM_1_40),
        (SimpleSpanProcessor, "on_end"),
        (SimpleSpanProcessor, "on_start"),
    ],
    ids=["http", "grpc", "on_end", "on_start"],
)
def test_a_method_that_somebody_has_replaced_in_a_class_is_called(
    monkeypatch: pytest.MonkeyPatch, kind: type, method: str
) -> None:
    """A filter of mine leaves out spans with secrets: it sees every span, so none goes round it."""
    given = GrpcExporter(endpoint=ENDPOINT, insecure=True) if kind is GrpcExporter else exporter()
    processor = SimpleSpanProcessor(given)
    assert settings_of(processor) is not None
    monkeypatch.setattr(kind, method, wraps(getattr(kind, method))(lambda *_: None))
    assert settings_of(processor) is None
    monkeypatch.undo()
    processor.shutdown()


def test_a_provider_without_such_exporters_has_nothing_for_a_relay(
    made: Callable[..., TracerProvider], client: RelayClient
) -> None:
    """No relay is started for it, and its processors stay."""
    provider = made(Kept())
    before = processors_of(provider)
    spans = AppTraceProvider(provider, relay=True)
    assert not spans.relays
    spans.route_to(client, Guard())
    assert processors_of(provider) == before


def test_relay_providers_off(made: Callable[..., TracerProvider], client: RelayClient) -> None:
    """`relay_providers=False` leaves my exporters alone."""
    provider = made(simple())
    before = processors_of(provider)
    spans = AppTraceProvider(provider, relay=False)
    assert not spans.relays
    spans.route_to(client, Guard())
    assert processors_of(provider) == before


# Through the relay.


@pytest.mark.parametrize("concurrent", [False, True])
def test_spans_go_to_the_relay_with_their_route(
    made: Callable[..., TracerProvider], client: RelayClient, peer: Peer, *, concurrent: bool
) -> None:
    """Each span is announced to go to all of my exporters; my other processor sees it, too."""
    kept = Kept()
    options: dict[str, Any] = {}
    if concurrent:
        options["active_span_processor"] = ConcurrentMultiSpanProcessor()
    provider = made(simple(), kept, BatchSpanProcessor(exporter(headers={"a": "b"})), **options)
    tracer = provider.get_tracer("shop")  # before: it is used all the same
    spans = AppTraceProvider(provider, relay=True)
    assert spans.relays
    spans.route_to(client, Guard(strict=True))
    tracer.start_span("a").end()
    relay = peer.accept()
    payload = relay.wait_for(FrameKind.END)[0].payload
    hello = unpack(relay.of(FrameKind.HELLO)[0].payload)
    [given] = hello["destinations"]
    found = parse(given)
    assert found is not None
    assert unpack(found.resource_blob) == [{"service.name": "own"}, ""]
    assert [unpack(one)["headers"].get("a") for one in found.exporters] == [None, "b"]
    packed = split(payload)[1]
    assert unpack(packed)[NAME] == "a"
    assert route_of(packed) == route_for(given)
    assert route_of(split(relay.wait_for(FrameKind.START)[0].payload)[1]) == route_for(given)
    assert kept.names == ["a"]


def test_a_processor_that_is_added_later(
    made: Callable[..., TracerProvider], client: RelayClient, peer: Peer
) -> None:
    """I add exporters and processors whenever I like: the relay exports to each, and I see all."""
    kept = Kept()
    provider = made()
    spans = AppTraceProvider(provider, relay=True)
    spans.route_to(client, Guard(strict=True))
    for one in (simple(), kept, simple(headers={"a": "b"})):
        provider.add_span_processor(one)
    provider.get_tracer("shop").start_span("a").end()
    relay = peer.accept()
    payload = relay.wait_for(FrameKind.END)[0].payload
    destinations = unpack(relay.of(FrameKind.HELLO)[0].payload)["destinations"]
    for frame in relay.of(FrameKind.DESTINATIONS):
        destinations = unpack(frame.payload)
    assert route_of(split(payload)[1]) == route_for(destinations[-1])
    found = parse(destinations[-1])
    assert found is not None
    assert len(found.exporters) == 2
    assert kept.names == ["a"]
    assert len(processors_of(provider)) == 2


def test_restore_puts_all_back(made: Callable[..., TracerProvider], client: RelayClient) -> None:
    """After `close()`, my provider is as I made it."""
    provider = made(Kept(), simple(), Kept(), simple(headers={"a": "b"}))
    before = processors_of(provider)
    spans = AppTraceProvider(provider, relay=True)
    spans.route_to(client, Guard(strict=True))
    assert len(processors_of(provider)) == 3
    spans.restore()
    assert set(processors_of(provider)) == set(before)
    assert "add_span_processor" not in vars(provider)


def test_without_a_relay_the_exporters_get_the_spans(
    made: Callable[..., TracerProvider], client: RelayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay is given up: my exporters export again, also what it may not have read."""
    names: list[str] = []

    def export(_: object, spans: tuple[ReadableSpan, ...]) -> SpanExportResult:
        names.extend(
            f"{span.name} of {span.resource.attributes['service.name']!r}" for span in spans
        )
        return SpanExportResult.SUCCESS

    monkeypatch.setattr(OTLPSpanExporter, "export", export)
    provider = made(simple())
    spans = AppTraceProvider(provider, relay=True)
    spans.route_to(client, Guard(strict=True))
    tracer = provider.get_tracer("shop")
    tracer.start_span("a").end()
    client._channel.connection.unavailable = True  # pyright: ignore[reportPrivateUsage]
    tracer.start_span("b").end()
    assert sorted(names) == ["a of 'own'", "b of 'own'"]


def test_other_processors_are_flushed_at_the_end_of_a_process(
    made: Callable[..., TracerProvider], client: RelayClient
) -> None:
    """A child ends: what my other processors hold is exported, without a wait for the relay."""
    kept = Kept()
    spans = AppTraceProvider(made(simple(), kept), relay=True)
    spans.route_to(client, Guard(strict=True))
    for flush in spans.flushes(1.0, relayed=True):
        flush()
    assert kept.flushed == 1
