"""Spans of the app's own provider through a real relay: to each of the app's exporters."""

from __future__ import annotations

import os
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from taskobs.protocol.frames import FrameKind, pack
from taskobs.protocol.span_routes import announcement, route_for, with_route
from taskobs.testing.receiver import Receiver
from tests.support.export import Backend, Reply, backend, until
from tests.support.relay_process import Client, RelayProcess
from tests.support.relay_spans import end, span, start
from tests.unit.relay.export.test_otlp_grpc import backend as grpc_backend

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="needs Unix sockets")
OWN = {"service.name": "the app's own"}


@pytest.fixture
def relay(receiver: Receiver) -> Generator[RelayProcess]:
    with RelayProcess(receiver) as relay:
        yield relay


def exporter(endpoint: str, **more: object) -> bytes:
    """Give the packed settings of one of the app's exporters over HTTP."""
    usual: dict[str, object] = {"protocol": "http/protobuf", "headers": dict[str, str]()}
    usual |= {"timeout": 10.0, "compression": "none"}
    return pack({**usual, "endpoint": endpoint, **more})


def announced(*exporters: bytes) -> bytes:
    return announcement(OWN, "", exporters)


def ended(name: str, route: bytes) -> tuple[FrameKind, bytes]:
    """Give the END of a new span with a route."""
    kind, payload = end(name)
    return kind, with_route(payload, route)


def names(there: Backend) -> list[str]:
    with there.changed:
        return [name for request in there.requests for name in request.names]


def test_spans_arrive_at_each_exporter_with_its_own_settings(
    relay: RelayProcess, receiver: Receiver
) -> None:
    """Both of my exporters get each span, with their headers and compression; ours gets none."""
    with backend() as one, backend() as other:
        given = announced(
            exporter(one.endpoint, headers={"x-key": "one"}),
            exporter(other.endpoint, headers={"x-key": "other"}, compression="gzip"),
        )
        worker = relay.client().hello(role="worker", destinations=[given])
        worker.raw(*end("taskobs' own"))
        worker.raw(*ended("a", route_for(given)))
        worker.raw(*ended("b", route_for(given)))
        worker.flush()
        assert names(one) == names(other) == ["a", "b"]
        assert [found.name for found in receiver.spans] == ["taskobs' own"]
        assert {request.headers["x-key"] for request in one.requests} == {"one"}
        assert {request.headers["x-key"] for request in other.requests} == {"other"}
        assert {request.headers.get("Content-Encoding") for request in one.requests} == {None}
        assert {request.headers["Content-Encoding"] for request in other.requests} == {"gzip"}
        worker.acknowledged(3)
        worker.close_gracefully()


def test_a_dead_exporter_holds_up_no_other(relay: RelayProcess) -> None:
    """One of my two backends is down: the other one gets its spans, and status says which is."""
    down = Reply(status=503)
    with backend(respond=lambda _: down) as dead, backend() as alive:
        given = announced(exporter(dead.endpoint), exporter(alive.endpoint))
        worker = relay.client().hello(role="worker", destinations=[given])
        for number in range(3):
            worker.raw(*ended(str(number), route_for(given)))
            alive.wait(number + 1)
        assert names(alive) == ["0", "1", "2"]
        until(lambda: dead.address in str(worker.status()["failing"]))
        assert worker.status()["pending"]["span"] == 3
        worker.close()


def test_a_span_that_was_open_is_lost_where_its_provider_sends(relay: RelayProcess) -> None:
    """A process is killed with an open span of my provider's: my exporter gets it as lost."""
    with backend() as there:
        given = announced(exporter(there.endpoint))
        worker = relay.worker()
        child = relay.client().hello(pid=2**22 - 1, destinations=[given])
        kind, payload = start(span("open"))
        child.raw(kind, with_route(payload, route_for(given)))
        child.raw(*ended("ended", route_for(given)))
        child.raw(FrameKind.CLOSE)
        child.wait_for(FrameKind.CLOSED)
        child.close()
        until(lambda: sorted(names(there)) == ["ended", "open"])
        worker.close_gracefully()


def test_a_destination_that_is_announced_later(relay: RelayProcess) -> None:
    """My provider is set up after the process has connected: its spans arrive."""
    with backend() as there:
        given = announced(exporter(there.endpoint))
        worker = relay.worker()
        worker.raw(*ended("before it is told", route_for(given)))
        worker.raw(FrameKind.DESTINATIONS, pack([given]))
        worker.raw(*ended("after", route_for(given)))
        worker.flush()
        assert names(there) == ["before it is told", "after"]
        worker.close_gracefully()


def test_what_has_no_announced_destination_is_counted(
    relay: RelayProcess, receiver: Receiver
) -> None:
    """A span whose exporter nobody names goes nowhere else, and is counted."""
    worker = relay.worker()
    worker.raw(*ended("a", b"8 bytes!"))
    until(lambda: bool(worker.status()["dropped"]))
    assert worker.status()["dropped"] == {"span": {"no process says where they go": 1}}
    worker.acknowledged(1)
    worker.close_gracefully()
    assert not receiver.spans


@pytest.mark.parametrize("bad", [{"protocol": "none"}, {"compression": "zip"}, {"headers": 1}])
def test_settings_that_can_not_be_used_are_counted(
    relay: RelayProcess, bad: dict[str, object]
) -> None:
    """An exporter that the relay can't make costs its own spans alone."""
    with backend() as there:
        given = announced(exporter(there.endpoint), exporter("http://127.0.0.1:9", **bad))
        worker = relay.client().hello(role="worker", destinations=[given])
        worker.raw(*ended("a", route_for(given)))
        worker.flush()
        assert names(there) == ["a"]
        [(reason, number)] = worker.status()["dropped"]["span"].items()
        assert (reason, number) == ("their exporter can't be used, or there are too many", 1)
        worker.close_gracefully()


def test_the_spool_keeps_spans_of_each_exporter_and_no_header(
    receiver: Receiver, tmp_path: Path
) -> None:
    """With a spool, a kill of the relay loses none of them; no file has my key or endpoint."""
    spool = {"directory": str(tmp_path), "bytes": 2**28, "age": 86_400.0}
    with backend() as alive, backend(respond=lambda _: replies[-1]) as other:
        replies = [Reply(status=503)]
        given = announced(
            exporter(alive.endpoint, headers={"x-key": "secret"}),
            exporter(other.endpoint, headers={"x-key": "secret"}),
        )
        with RelayProcess(receiver, spool=spool) as relay:
            worker = relay.client().hello(role="worker", destinations=[given])
            for number in range(5):
                worker.raw(*ended(str(number), route_for(given)))
            worker.acknowledged(5)
            until(lambda: len(names(alive)) == 5)
            until(lambda: worker.status()["pending"]["span"] == 5)  # those for the other one
            worker.close()
            files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
            assert files
            for secret in (b"secret", alive.address.encode(), other.address.encode()):
                assert not any(secret in content for content in files)
            relay.restart()
            before = len(names(other))
            replies.append(Reply())
            worker = relay.client().hello(role="worker", destinations=[given])
            until(lambda: names(other)[before:] == ["0", "1", "2", "3", "4"])
            worker.close_gracefully()
        assert names(alive) == ["0", "1", "2", "3", "4"]


def test_announcements_of_one_client_are_no_harm_to_another(relay: RelayProcess) -> None:
    """A process that announces nonsense is cut off; the others' spans go on."""
    with backend() as there:
        given = announced(exporter(there.endpoint))
        bad: Client = relay.client()
        bad.hello(destinations=[pack({"exporters": [1], "resource": b""})])
        assert bad.hung_up()
        bad.close()
        worker = relay.client().hello(role="worker", destinations=[given])
        worker.raw(*ended("a", route_for(given)))
        worker.flush()
        assert names(there) == ["a"]
        worker.close_gracefully()


@pytest.mark.skipif(
    Version(version("opentelemetry-exporter-otlp-proto-http")) < Version("1.35"),
    reason="before 1.35 the exporter takes no options of a channel",
)
def test_spans_arrive_over_grpc(relay: RelayProcess) -> None:
    """My exporter speaks gRPC: so does the relay, with its headers and compression."""
    with grpc_backend() as there:
        settings = {"protocol": "grpc", "endpoint": f"127.0.0.1:{there.port}", "insecure": True}
        more = {"headers": {"x-key": "secret"}, "timeout": 10.0, "compression": "Gzip"}
        given = announced(pack({**settings, **more, "channel_options": [["grpc.keepalive", 1]]}))
        worker = relay.client().hello(role="worker", destinations=[given])
        worker.raw(*ended("a", route_for(given)))
        worker.flush()
        assert there.calls == [["a"]]
        assert there.metadata[0]["x-key"] == "secret"
        worker.close_gracefully()
