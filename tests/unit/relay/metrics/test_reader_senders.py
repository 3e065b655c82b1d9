"""What is counted for the app's own metric readers arrives where each of them exports."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
    OTLPMetricExporter as GrpcExporter,
)
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as service
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from taskobs.metrics import metrics_frames
from taskobs.metrics.families import Family, Sample
from taskobs.metrics.snapshot import Snapshot, pack_snapshot
from taskobs.otel.app.reader_settings import settings_of_reader
from taskobs.protocol.frames import FrameError, pack
from taskobs.relay.metrics.accepted import AcceptedSums
from taskobs.relay.metrics.reader_senders import ReaderSenders
from tests.support.export import PATIENCE, Backend, Reply, backend, until
from tests.unit.otel.app.test_provider import FROM_1_40
from tests.unit.relay.metrics.test_exporter import points

ORDERS = "shop.orders"
OWN = {"service.name": "own", "service.instance.id": "one"}
HOUR = 3_600.0


def settings(there: Backend, *, interval: float = HOUR, delta: bool = False, **more: Any) -> bytes:
    headers: dict[str, str] = {}
    exporter = {"protocol": "http/protobuf", "endpoint": there.endpoint, "headers": headers, **more}
    return pack({"exporter": exporter, "interval": interval, "delta": delta})


def payload(settings: bytes, value: float, *, number: int = 1) -> tuple[int, bytes]:
    """Give what the main process sends for a reader, split."""
    samples = [Sample({"kind": "book"}, value)]
    family = Family(name=ORDERS, kind="counter", meaning="", scope="shop", samples=samples)
    families = [family] if value else []
    snapshot = pack_snapshot(Snapshot(since=time.time_ns(), families=families, resource=OWN))
    return metrics_frames.split(metrics_frames.of_reader(number, settings, snapshot))


def orders(there: Backend) -> list[Any]:
    with there.changed:
        return [points(one.body)[ORDERS][0][1] for one in there.requests]


@contextmanager
def sending(accepted: AcceptedSums | None = None) -> Generator[ReaderSenders]:
    senders = ReaderSenders(accepted)
    try:
        yield senders
    finally:
        senders.stop(PATIENCE)


class Memory:
    """Outlives a relay."""

    def __init__(self) -> None:
        self.data: bytes | None = None

    def note_exported(self, data: bytes) -> None:
        self.data = data

    def exported(self) -> bytes | None:
        return self.data


def test_each_reader_has_its_own_backend_and_settings() -> None:
    """I have two readers: each backend gets the sums, with its headers, under my resource."""
    with backend() as one, backend() as other:
        with sending() as senders:
            senders.take(*payload(settings(one, headers={"x-key": "one"}), 3))
            more = settings(other, headers={"x-key": "two"}, compression="gzip")
            senders.take(*payload(more, 3, number=2))
        assert orders(one) == orders(other) == [3]
        assert one.requests[0].headers["x-key"] == "one"
        assert other.requests[0].headers["x-key"] == "two"
        assert other.requests[0].headers["Content-Encoding"] == "gzip"
        request = ExportMetricsServiceRequest.FromString(one.requests[0].body)
        resource = request.resource_metrics[0].resource
        assert {pair.key: pair.value.string_value for pair in resource.attributes} == OWN
        assert request.resource_metrics[0].scope_metrics[0].scope.name == "shop"


class Collector(service.MetricsServiceServicer):
    """A collector that speaks gRPC, and keeps what comes."""

    def __init__(self) -> None:
        self.calls: list[tuple[ExportMetricsServiceRequest, dict[str, str]]] = []

    def Export(self, request: Any, context: Any) -> ExportMetricsServiceResponse:  # noqa: N802  # as gRPC has it
        self.calls.append((request, dict(context.invocation_metadata())))
        return ExportMetricsServiceResponse()


@FROM_1_40
def test_a_reader_over_grpc() -> None:
    """My exporter speaks gRPC, and exports few points at a time: so does the relay."""
    there, server = Collector(), grpc.server(futures.ThreadPoolExecutor(2))
    add: Any = vars(service)["add_MetricsServiceServicer_to_server"]
    add(there, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    endpoint = f"http://127.0.0.1:{port}"
    given = GrpcExporter(endpoint, headers={"x-key": "one"}, max_export_batch_size=1)
    reader: Any = PeriodicExportingMetricReader(given, export_interval_millis=HOUR * 1000)
    packed = settings_of_reader(reader, Resource(OWN))
    reader.shutdown()
    assert packed is not None
    with sending() as senders:
        senders.take(*payload(packed, 3))
    server.stop(0).wait()
    [(request, metadata)] = there.calls
    assert request.resource_metrics[0].scope_metrics[0].metrics[0].name == ORDERS
    assert metadata["x-key"] == "one"


def test_a_reader_exports_at_its_own_interval() -> None:
    """My reader exports every tenth of a second: so does the relay, until the last sums."""
    with backend() as there, sending() as senders:
        given = settings(there, interval=0.1)
        senders.take(*payload(given, 3))
        there.wait(2)
        senders.take(*payload(given, 5))
        until(lambda: 5 in orders(there))
        assert set(orders(there)) == {3, 5}


def test_nothing_is_sent_before_something_was_counted() -> None:
    """My tasks have measured nothing yet: no empty request."""
    with backend() as there:
        with sending() as senders:
            senders.take(*payload(settings(there), 0))
        assert there.requests == []


def test_deltas_lose_nothing_with_a_relay_that_is_killed() -> None:
    """My reader takes deltas, and the relay is killed twice: they add up, for each reader."""
    memory = Memory()
    with backend() as there, backend() as other:
        relays: list[ReaderSenders] = []
        for value in (2, 5, 9):
            senders = ReaderSenders(AcceptedSums(memory))
            relays.append(senders)
            senders.take(*payload(settings(there, delta=True), value))
            senders.take(*payload(settings(other, delta=True), 2 * value, number=2))
            for send in senders.sends:
                send()
        assert orders(there) == [2, 3, 4]
        assert orders(other) == [4, 6, 8]
        for senders in relays:
            senders.stop(PATIENCE)


def test_a_backend_that_refuses_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """My key is wrong for a while: one line says so, one that it is over; no delta is lost."""
    with backend(Reply(status=401), Reply(status=401)) as there:
        senders = ReaderSenders()
        senders.take(*payload(settings(there, delta=True), 3))
        [send] = senders.sends
        with caplog.at_level(logging.INFO, "taskobs.relay"):
            for _ in range(3):
                send()
        assert orders(there) == [3, 3, 3]
        refused, accepted = caplog.messages
        assert "metrics of the app's reader are not accepted: HTTP 401" in refused
        assert "accepted again" in accepted
        send()
        assert orders(there)[3:] == [0]
        senders.stop(PATIENCE)


def test_backends_that_do_not_answer_share_the_time_of_a_stop() -> None:
    """My eight backends hang when the worker stops: it waits for them once, not eight times."""
    with backend(respond=lambda _: Reply(hang=True)) as there:
        senders = ReaderSenders()
        for number in range(1, 9):
            senders.take(*payload(settings(there), 3, number=number))
        began = time.monotonic()
        senders.stop(1.0)
        took = time.monotonic() - began
        there.wait(8)
    assert took < 6.0  # and not 8


def test_an_exporter_that_can_not_be_made_costs_no_other_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One reader has settings that the relay can't use: one line, and the other one's arrive."""
    with backend() as there:
        with sending() as senders:
            for _ in range(2):
                senders.take(*payload(settings(there, compression="zip"), 3))
            senders.take(*payload(pack({"exporter": 1}), 3, number=2))
            senders.take(*payload(settings(there), 3, number=3))
        assert orders(there) == [3]
    lines = [line for line in caplog.messages if "one of the app's readers can't be sent" in line]
    assert len(lines) == 2


@pytest.mark.parametrize("rest", [b"", pack(1), pack([b""]), pack([1, 2])])
def test_a_malformed_payload_is_refused(rest: bytes) -> None:
    """What is no payload of a reader raises what cuts the connection."""
    with pytest.raises(FrameError):
        ReaderSenders().take(1, rest)
    with pytest.raises(FrameError):
        metrics_frames.split(b"")


@pytest.mark.parametrize("data", [None, b"", b"x", pack([1]), pack([[b"", 1]]), pack({1: 2}) * 2])
def test_what_another_release_has_kept_is_ignored(data: bytes | None) -> None:
    """I upgrade while a worker runs: what the relay before has noted may have another form."""
    memory = Memory()
    memory.data = data
    accepted = AcceptedSums(memory)
    assert accepted.of(1).exported() is None
    accepted.of(1).note_exported(b"sums")
    assert AcceptedSums(memory).of(1).exported() == b"sums"
    assert AcceptedSums(memory).of(2).exported() is None
