"""Spans out of the relay, to backends that are well, slow, busy, gone, or say no."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import closing
from email.utils import formatdate
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import requests.auth
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from taskobs.relay.counters import DROPPED, EXPORTED, RETRIED, Counters
from taskobs.relay.export import batch_sender, batch_size, responses
from taskobs.relay.export.batch_sender import Limits
from taskobs.relay.export.otlp import SpanSender, make_exporter_adapter
from taskobs.relay.export.otlp_http import HttpExporterAdapter
from taskobs.relay.export.responses import ExportResult, ExportStatus
from taskobs.relay.export.sender import AT_THE_END, MALFORMED
from taskobs.relay.storage.base import OVERFLOW, TOO_OLD
from taskobs.relay.storage.items import Item
from taskobs.relay.storage.memory import MemoryStore
from taskobs.relay.storage.spool.store import Spool, SpoolConfig
from taskobs.testing import wire
from tests.live.services import free_port
from tests.support.export import (
    PATIENCE,
    RESOURCE_BLOB,
    Backend,
    Reply,
    Request,
    backend,
    exporter,
    items,
    quick,
    running,
    sent,
    spans,
    wait_out,
)

DISTURBED = [408, 429, 502, 503, 504]
REFUSED = [400, 401, 403, 404, 500, 501]


def partial(rejected: int, message: str) -> bytes:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = message
    return bytes(response.SerializeToString())


def send_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no batch wait a second for more spans."""
    limits = SpanSender.limits._replace(max_delay=0.0)
    monkeypatch.setattr(SpanSender, "limits", limits)


def names(there: Backend) -> list[str]:
    return [name for request in there.requests for name in request.names]


def test_spans_arrive_whole_in_one_request() -> None:
    """What the processes of a worker sent is in the backend, with their resource."""
    with backend() as there:
        store, counters, spans = sent(there)
        store.append(items("a", "b", "c"))
        with running(spans, store):
            wait_out(store)
        [request] = there.requests
        assert request.names == ["a", "b", "c"]
        [span, *_] = wire.spans(request.body)
        assert span.resource["service.name"] == "shop"
        assert span.attributes == {"n": 1}
        assert counters.total(EXPORTED, "span") == 3


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_the_exporters_variables_and_arguments_count(
    compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I set OTEL_EXPORTER_OTLP_* as ever: endpoint, headers, compression."""
    with backend() as there:
        base = there.endpoint.removesuffix("/v1/traces")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", base)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
        counters = Counters()
        store = MemoryStore(counters)
        spans = SpanSender(store, counters, {"protocol": "http/protobuf"})
        store.append(items("a"))
        with running(spans, store):
            wait_out(store)
        [request] = there.requests
        assert request.names == ["a"]
        assert request.headers["api-key"] == "secret"
        assert request.headers["Content-Encoding"] == compression


@pytest.mark.parametrize("status", DISTURBED)
def test_a_disturbed_backend_is_asked_again(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector is restarted: its load balancer says 503 twice, and nothing is lost."""
    failed = quick(monkeypatch)
    with backend(Reply(status), Reply(status)) as there:
        store, counters, spans = sent(there)
        store.append(items("a", "b"))
        with running(spans, store):
            wait_out(store)
        assert names(there) == ["a", "b"] * 3
        assert counters.total(EXPORTED) == 2
        assert counters.total(RETRIED) == 4
        assert counters.total(DROPPED) == 0
        assert set(failed) == {0, 1}


@pytest.mark.parametrize("status", REFUSED)
def test_a_backend_that_refuses_is_not_asked_again(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The key is wrong: the spans are dropped and counted, and one line says why."""
    with backend(Reply(status, body=b"no such key"), Reply(status)) as there:
        store, counters, spans = sent(there)
        with running(spans, store), caplog.at_level(logging.WARNING, "taskobs"):
            store.append(items("a", "b"))
            wait_out(store)
            store.append(items("c"))
            wait_out(store)
        assert names(there) == ["a", "b", "c"]
        assert counters.counts()[DROPPED] == {("span", f"HTTP {status}"): 3}
        lines = [one.getMessage() for one in caplog.records if one.name == "taskobs.relay"]
        assert len(lines) == 1
        assert f"HTTP {status} (no such key)" in lines[0]


def test_retry_after_is_honoured_even_after_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy backend asks for a second, and gets it."""
    send_at_once(monkeypatch)
    failed = quick(monkeypatch)
    with backend(Reply(429, {"Retry-After": "1"})) as there:
        store, _, spans = sent(there)
        store.append(items("a"))
        with running(spans, store):
            there.wait(1)
            store.flush()
            first, second = there.wait(2)
            wait_out(store)
        assert second.at - first.at >= 0.9
        assert not failed


def test_a_backoff_is_cut_short_by_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that stops does not wait for half a minute to pass."""
    send_at_once(monkeypatch)
    quick(monkeypatch, 3600.0)
    with backend(Reply(503)) as there:
        store, _, spans = sent(there)
        store.append(items("a"))
        with running(spans, store):
            there.wait(1)
            while len(there.requests) < 2:
                store.flush()
                time.sleep(0.02)
            wait_out(store)


def test_a_partial_success_is_none_for_what_was_rejected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A backend takes a batch but for two spans: they are counted, and nothing is sent again."""
    reply = Reply(body=partial(2, "too old"), headers={"Content-Type": "application/x-protobuf"})
    with backend(reply) as there:
        store, counters, spans = sent(there)
        store.append(items("a", "b", "c"))
        with running(spans, store), caplog.at_level(logging.WARNING, "taskobs"):
            wait_out(store)
        assert len(there.requests) == 1
        assert counters.total(EXPORTED) == 1
        assert counters.counts()[DROPPED] == {("span", "rejected by the backend"): 2}
        assert "too old" in caplog.text


@pytest.mark.parametrize(
    ("body", "rejected"),
    [
        (b"", 0),
        (b"{}", 0),
        (json.dumps({"partialSuccess": {"rejectedSpans": "1", "errorMessage": "x"}}).encode(), 1),
        (b'{"partialSuccess": 3}', 0),
        (b"<html>", 0),
        (b"x" * 10_000_000, 0),
    ],
)
def test_whatever_a_backend_answers_is_read_with_care(body: bytes, rejected: int) -> None:
    """JSON, nothing, or ten megabytes of something: the spans were accepted all the same."""
    with backend(Reply(body=body, headers={"Content-Type": "application/json"})) as there:
        store, counters, spans = sent(there)
        store.append(items("a", "b"))
        with running(spans, store):
            wait_out(store)
        assert counters.total(DROPPED) == rejected
        assert counters.total(EXPORTED) == 2 - rejected


def test_a_batch_that_is_too_large_is_sent_in_pieces(caplog: pytest.LogCaptureFixture) -> None:
    """A backend takes small requests only: each span goes out, but for one that is too large."""
    with backend(Reply(413), Reply(413), Reply(413)) as there:
        store, counters, spans = sent(there)
        store.append(items("a", "b", "c", "d"))
        with running(spans, store), caplog.at_level(logging.WARNING, "taskobs"):
            wait_out(store)
        assert [request.names for request in there.requests] == [
            ["a", "b", "c", "d"],
            ["a", "b"],
            ["a"],
            ["b"],
            ["c", "d"],
        ]
        assert counters.total(EXPORTED) == 3
        assert counters.counts()[DROPPED] == {("span", "HTTP 413"): 1}


def refuses_beyond(size: int) -> Callable[[Request], Reply]:
    """Return what answers 413 to requests of more bytes than ``size``."""
    return lambda request: Reply(413 if len(request.body) > size else 200)


def test_the_size_that_a_backend_accepts_is_remembered() -> None:
    """A gateway takes 4 KB at a time: after the first batch, no request of mine is refused."""
    with backend(respond=refuses_beyond(4_096)) as there:
        store, counters, spans = sent(there)
        with running(spans, store):
            refused: list[int] = []
            for _ in range(5):
                store.append(items(*(["x" * 100] * 100)))
                wait_out(store)
                refused.append(sum(len(request.body) > 4_096 for request in there.requests))
        assert refused == [refused[0]] * 5
        assert refused[0] > 0
        assert len(there.requests) < 200
        assert counters.total(EXPORTED) == 500
        assert counters.total(DROPPED) == 0


def test_a_backend_that_refuses_every_size_is_asked_for_few_spans(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A gateway answers 413 to all: 250 spans don't become 500 requests, and I read why."""
    with backend(respond=refuses_beyond(0)) as there:
        store, counters, spans = sent(there)
        with running(spans, store), caplog.at_level(logging.WARNING, "taskobs"):
            store.append(items(*[f"span {number:03}" for number in range(250)]))
            wait_out(store)
            store.append(items(*[f"span {number:03}" for number in range(250)]))
            wait_out(store)
        assert len(there.requests) < 25
        assert counters.counts()[DROPPED] == {("span", "HTTP 413"): 500}


def test_a_backend_that_refuses_one_large_span_gets_the_others() -> None:
    """One span is too large: it costs itself, and what is sent later goes out in full batches."""
    with backend(respond=refuses_beyond(20_000)) as there:
        store, counters, spans = sent(there)
        with running(spans, store):
            store.append(items("a", "b", "x" * 30_000, "c"))
            wait_out(store)
            before = len(there.requests)
            store.append(items(*"defghijk"))
            wait_out(store)
        assert len(there.requests) == before + 1
        assert counters.total(EXPORTED) == 11
        assert counters.counts()[DROPPED] == {("span", "HTTP 413"): 1}


def test_a_size_that_was_refused_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody raises the gateway's limit: my relay uses it, though not at once."""
    monkeypatch.setattr(batch_size, "REMEMBERED", 0.0)
    with backend(Reply(413)) as there:
        store, _, spans = sent(there)
        with running(spans, store):
            store.append(items("a", "b"))
            wait_out(store)
            store.append(items("c", "d"))
            wait_out(store)
        assert [request.names for request in there.requests] == [
            ["a", "b"],
            ["a"],
            ["b"],
            ["c", "d"],
        ]


def test_a_backend_that_is_not_there_yet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The collector starts after the worker: two lines, one of the outage, one of its end."""
    send_at_once(monkeypatch)
    quick(monkeypatch)
    port = free_port()
    counters = Counters()
    store = MemoryStore(counters)
    where = {"protocol": "http/protobuf", "endpoint": f"http://127.0.0.1:{port}/v1/traces"}
    spans = SpanSender(store, counters, where | {"headers": {"key": "secret"}})
    store.append(items("a", "b"))
    with running(spans, store), caplog.at_level(logging.WARNING, "taskobs"):
        end = time.monotonic() + PATIENCE
        while counters.total(RETRIED) < 10 and time.monotonic() < end:
            time.sleep(0.01)
        assert store.pending("span").items == 2
        monkeypatch.setattr("tests.support.export._PORT", port)
        with backend() as there:
            wait_out(store)
            assert names(there) == ["a", "b"]
    assert counters.total(DROPPED) == 0
    outage, over = [one.getMessage() for one in caplog.records if one.name == "taskobs.relay"]
    assert "Connection refused" in outage
    assert "works again" in over
    assert "secret" not in caplog.text


def test_a_backend_that_hangs_costs_no_more_than_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A backend takes connections and never answers: the batch waits, and is sent again."""
    send_at_once(monkeypatch)
    quick(monkeypatch)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with backend(Reply(hang=True)) as there:
        store, counters, spans = sent(there)
        store.append(items("a"))
        with running(spans, store):
            first, second, *_ = there.wait(2)
            wait_out(store)
        assert second.at - first.at < 9  # without the variable it is ten seconds
        assert counters.total(EXPORTED) == 1


def test_what_is_beyond_memory_in_an_outage_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest spans survive a long outage; sent, dropped and waiting add up."""
    quick(monkeypatch)
    # A batch of the size of the whole store would leave no room for what is newer.
    monkeypatch.setattr(SpanSender, "limits", Limits(items=10, bytes=1024 * 1024, max_delay=0.0))
    over = Event()
    with backend(respond=lambda _: Reply(200 if over.is_set() else 503)) as there:
        counters = Counters()
        one = items("x")[0]
        store = MemoryStore(counters, limit=50 * (len(one.payload) + 300))
        spans = SpanSender(store, counters, exporter(there))
        with running(spans, store):
            for number in range(20):
                store.append(items(*[f"{number}.{i}" for i in range(10)]))
            there.wait(2)
            over.set()
            wait_out(store)
        assert counters.total(EXPORTED) + counters.total(DROPPED) == 200
        assert set(counters.counts()[DROPPED]) == {("span", OVERFLOW)}
        assert "19.9" in names(there)


def test_a_malformed_span_does_not_harm_the_others() -> None:
    """One process sends nonsense: it is dropped and counted, the rest of the batch goes out."""
    with backend() as there:
        store, counters, spans = sent(there)
        good = items("a", "b")
        bad = [Item("span", b"\xc1", RESOURCE_BLOB), Item("span", good[0].payload, b"\x01")]
        store.append([good[0], *bad, good[1]])
        with running(spans, store):
            wait_out(store)
        assert names(there) == ["a", "b"]
        assert counters.counts()[DROPPED] == {("span", MALFORMED): 2}


def test_an_exporter_that_sends_in_another_way_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A later release does not ask its session to send: what it sent was empty, and is counted."""
    real = OTLPSpanExporter.__init__

    def without_session(self: OTLPSpanExporter, *, session: object, **options: Any) -> None:
        del session
        real(self, **options)

    monkeypatch.setattr(OTLPSpanExporter, "__init__", without_session)
    with backend() as there:
        store, counters, spans = sent(there)
        store.append(items("a", "b"))
        with running(spans, store):
            wait_out(store)
        assert names(there) == []
        assert counters.counts()[DROPPED] == {("span", "refused by the exporter"): 2}


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://localhost/x", "http://"])
def test_an_endpoint_that_is_none_costs_the_spans_not_the_relay(endpoint: str) -> None:
    """I mistype the endpoint: it is said, all is counted, nothing hangs."""
    counters = Counters()
    store = MemoryStore(counters)
    where = {"protocol": "http/protobuf", "endpoint": endpoint}
    spans = SpanSender(store, counters, where)
    store.append(items("a", "b"))
    with running(spans, store):
        wait_out(store)
    assert counters.total(DROPPED) == 2


def test_stopping_waits_for_what_is_there_and_says_whether_it_is_out() -> None:
    """The worker stops: what it has sent is out before its relay ends."""
    with backend(Reply(delay=0.3)) as there:
        store, counters, spans = sent(there)
        with running(spans, store):
            store.append(items("a"))
            assert spans.stop(PATIENCE)
        assert counters.total(EXPORTED) == 1


def test_what_is_left_at_the_end_is_counted() -> None:
    """The backend is gone when the worker stops: the relay ends in time, and says what it lost."""
    with backend(*[Reply(503)] * 100) as there:
        store, counters, spans = sent(there)
        with running(spans, store):
            store.append(items("a", "b"))
            begun = time.monotonic()
            assert not spans.stop(0.5)
            assert time.monotonic() - begun < 30
        assert counters.counts()[DROPPED] == {("span", AT_THE_END): 2}


def test_what_is_left_in_the_spool_is_sent_by_the_next_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage outlives the worker: with a spool, the next worker's relay sends it all."""
    send_at_once(monkeypatch)
    with backend(*[Reply(503)] * 100) as there:
        counters = Counters()
        store = Spool(counters, SpoolConfig(tmp_path, "celery@a"))
        spans = SpanSender(store, counters, exporter(there))
        with running(spans, store):
            store.append(items("a", "b"))
            there.wait(1)
            assert not spans.stop(0.1)
        assert counters.total(DROPPED) == 0
    with backend() as there:
        again, _, spans = sent(there, Spool(Counters(), SpoolConfig(tmp_path, "celery@a")))
        with running(spans, again):
            wait_out(again)
        assert names(there) == ["a", "b"]


def test_what_grows_too_old_while_it_is_tried_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spool's age bounds also what is being sent."""
    quick(monkeypatch)
    with backend(*[Reply(503)] * 10_000) as there:
        counters = Counters()
        spool = Spool(counters, SpoolConfig(tmp_path, "celery@a", age=0.5))
        spans = SpanSender(spool, counters, exporter(there))
        with running(spans, spool):
            spool.append(items("a"))
            wait_out(spool)
        assert counters.counts()[DROPPED] == {("span", TOO_OLD): 1}


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests stay small, however much is waiting."""
    monkeypatch.setattr(SpanSender, "limits", Limits(items=3, bytes=1024 * 1024, max_delay=0.0))
    with backend() as there:
        store, _, spans = sent(there)
        store.append(items(*"abcdefg"))
        with running(spans, store):
            wait_out(store)
        assert [request.names for request in there.requests] == [
            ["a", "b", "c"],
            ["d", "e", "f"],
            ["g"],
        ]


def test_an_exporter_that_raises_does_not_end_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong with one batch, the next one goes out."""
    monkeypatch.setattr(batch_sender, "_PAUSE", 0.01)
    with backend() as there:
        store, counters, spans = sent(there)

        def broken(_: HttpExporterAdapter, __: object) -> None:
            monkeypatch.undo()
            raise RuntimeError("broken")

        monkeypatch.setattr(HttpExporterAdapter, "send", broken)
        with running(spans, store):
            store.append(items("a"))
            wait_out(store)
            store.append(items("b"))
            wait_out(store)
        assert counters.counts()[DROPPED] == {("span", "refused by the exporter"): 1}
        assert names(there) == ["b"]


def test_backoff_grows_with_jitter_to_half_a_minute() -> None:
    """Many relays that lost one collector don't come back all at once."""
    first = {responses.backoff(0) for _ in range(50)}
    assert len(first) > 10
    assert 0.7 < min(first) < max(first) < 1.3
    assert all(20 < responses.backoff(attempt) < 40 for attempt in (5, 6, 10, 1000, 100_000))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3", 3), ("0", 0), ("-1", 0), ("1e9", 600), ("nan", None), ("soon", None), (None, None)],
)
def test_retry_after_in_seconds(value: str | None, expected: float | None) -> None:
    """Whatever a proxy writes there is read, or left."""
    assert responses.seconds(value) == expected


def test_retry_after_as_a_date() -> None:
    """RFC 9110 allows a date as well; one in the past says that a clock is wrong, and no more."""
    wait = responses.seconds(formatdate(time.time() + 100, usegmt=True))
    assert wait is not None
    assert 90 < wait <= 100
    assert responses.seconds(formatdate(time.time() - 100, usegmt=True)) is None


def test_an_errors_innermost_cause_is_logged_and_no_url() -> None:
    """The log says what is wrong, and no key that is part of a URL."""
    error = ConnectionError("https://x/?api-key=secret")
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    result = responses.of_error(error)
    assert result.status is ExportStatus.RETRY
    assert result.detail == "ConnectionRefusedError: Connection refused"
    assert "secret" not in responses.of_error(ConnectionError("https://x/?key=secret")).detail


# What is wrong, in words.

STATUS_401 = Status(code=16, message="provided authorization does not match").SerializeToString()
PROTOBUF = {"Content-Type": "application/x-protobuf"}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(401, PROTOBUF, STATUS_401), "HTTP 401 (provided authorization does not match)"),
        (Reply(401, PROTOBUF, b"no such key"), "HTTP 401 (no such key)"),
        (Reply(403, {"Content-Type": "application/json"}, b'{"message": "no"}'), "HTTP 403 (no)"),
        (Reply(403, {"Content-Type": "application/json"}, b'["no"]'), 'HTTP 403 (["no"])'),
        (
            Reply(400, {"Content-Type": "text/html"}, b"<b>\n\x00no\x1b[31m"),
            "HTTP 400 (<b> no [31m)",
        ),
        (Reply(400, PROTOBUF, b""), "HTTP 400"),
    ],
)
def test_a_refusal_is_logged_in_the_backends_words(reply: Reply, said: str) -> None:
    """A Collector refuses my spans: the log has its message, and no bytes of its encoding."""
    with backend(reply) as there:
        result = export(there.endpoint)
    assert result is not None
    assert result.text == said


def test_a_refusal_for_now_is_logged_in_the_backends_words(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Collector's queue is full, and it answers 503: the line on the outage says so."""
    quick(monkeypatch)
    body = Status(code=14, message="sending queue is full").SerializeToString()
    with backend(Reply(503, PROTOBUF, body)) as there:
        store, _, spans = sent(there)
        store.append(items("a"))
        with running(spans, store), caplog.at_level(logging.WARNING, "taskobs"):
            wait_out(store)
    assert "span export failed, retrying: HTTP 503 (sending queue is full)" in caplog.text


KEY = "s3cret-of-mine"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (f"Bearer {KEY} has expired", "HTTP 401 (*** has expired)"),
        (f"unknown token: {KEY}", "HTTP 401 (unknown token: ***)"),
        (f"POST /v1/traces?key={KEY}", "HTTP 401 (POST /v1/traces?key=***)"),
        (f"{'x' * 195}{KEY}", f"HTTP 401 ({'x' * 195}***)"),
    ],
)
def test_a_key_that_a_backend_repeats_is_not_logged(body: str, said: str) -> None:
    """My backend says which token it refuses: the log has its words, without the token."""
    with backend(Reply(401, {"Content-Type": "text/plain"}, body.encode())) as there:
        endpoint = f"{there.endpoint}?key={KEY}"
        result = export(endpoint, headers={"authorization": f"Bearer {KEY}"})
    assert result is not None
    assert result.text == said


@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8"])
def test_a_page_is_no_answer_to_spans(kind: str) -> None:
    """My endpoint is the address of Jaeger's pages, which answer 200: I read why spans are lost."""
    with backend(Reply(200, {"Content-Type": kind}, b"\n<!doctype html><html>")) as there:
        result = export(there.endpoint)
    assert result is not None
    assert result.status is ExportStatus.DROP
    assert "usually 4318" in result.text


@pytest.mark.parametrize("body", [b"", b"ok"])
def test_other_answers_of_200_are_taken_for_what_they_say(body: bytes) -> None:
    """A proxy calls its empty answers HTML: my spans have arrived."""
    with backend(Reply(200, {"Content-Type": "text/html"}, body)) as there:
        result = export(there.endpoint)
    assert result is not None
    assert result.status is ExportStatus.SUCCESS


def export(
    endpoint: str, protocol: str = "http/protobuf", **options: object
) -> ExportResult | None:
    """Export a span once."""
    where = {"protocol": protocol, "endpoint": endpoint, **options}
    adapter = make_exporter_adapter("TRACES", where)
    with closing(adapter):
        return adapter.send(spans("a"))


def test_a_path_that_is_there_twice_is_named() -> None:
    """OTEL_EXPORTER_OTLP_ENDPOINT ends in /v1/traces: I read that it must not."""
    with backend(Reply(404)) as there:
        result = export(f"http://{there.address}/v1/traces/v1/traces")
    assert result is not None
    assert "OTEL_EXPORTER_OTLP_ENDPOINT has to end before /v1/traces" in result.detail


def test_a_path_that_is_missing_is_named() -> None:
    """OTEL_EXPORTER_OTLP_TRACES_ENDPOINT has no path: I read that it needs one."""
    with backend(Reply(404)) as there:
        result = export(f"http://{there.address}/?key=s3cret")
    assert result is not None
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is used as it is" in result.detail
    assert "s3cret" not in result.text


def test_a_path_that_is_right_gets_no_hint() -> None:
    """My backend has another reason to say 404: no hint leads me astray."""
    with backend(Reply(404)) as there:
        result = export(f"{there.endpoint}/")
    assert result == (ExportStatus.DROP, "HTTP 404", "", None, 0)


def test_https_to_a_server_without_tls_is_named() -> None:
    """I write https for a collector that has no certificate: I read what to write."""
    with backend() as there:
        result = export(f"https://{there.address}/v1/traces")
    assert result is not None
    assert result.status is ExportStatus.RETRY
    assert "try http:// instead of https://" in result.detail


def test_a_credential_provider_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cloud's session that signs requests works here as with the stock exporter."""

    class Signature(requests.auth.AuthBase):
        def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
            body = request.body or b""
            assert isinstance(body, bytes)
            request.headers["Authorization"] = sha256(body).hexdigest()
            return request

    session = requests.Session()
    session.auth = Signature()
    provide(session, monkeypatch)
    with backend() as there:
        store, _, spans = sent(there)
        store.append(items("a"))
        with running(spans, store), closing(store):
            wait_out(store)
        [request] = there.requests
        assert request.names == ["a"]
        assert request.headers["Authorization"] == sha256(request.body).hexdigest()


def test_a_credential_provider_may_have_one_session_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """My provider returns the same session for each signal: each has its own results."""
    session = requests.Session()
    provide(session, monkeypatch)
    before = dict(session.adapters)
    with backend(Reply(503), Reply(401)) as there:
        where = {"protocol": "http/protobuf", "endpoint": there.endpoint}
        logs, traces = (make_exporter_adapter(signal, where) for signal in ("LOGS", "TRACES"))
        with closing(logs), closing(traces):
            first, second = traces.send(()), logs.send(())
    assert first is not None
    assert second is not None
    assert (first.status, first.reason) == (ExportStatus.RETRY, "HTTP 503")
    assert (second.status, second.reason) == (ExportStatus.DROP, "HTTP 401")
    assert dict(session.adapters) == before


def provide(session: requests.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a credential provider give this session."""

    class Provider:
        def load(self) -> Callable[[], requests.Session]:
            return lambda: session

    def found(**_: str) -> list[Provider]:
        return [Provider()]

    monkeypatch.setattr("taskobs.relay.export.otlp_http.entry_points", found)
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "cloud")
