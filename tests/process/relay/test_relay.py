"""A relay as it runs: a process that clients speak to, and that exports to a live receiver."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode

from taskobs import semconv
from taskobs.protocol import envelopes, frames, span_encoder
from taskobs.protocol.frames import KEY_BYTES, FrameKind, encode, pack
from taskobs.protocol.held_spans.marks import Mark, with_mark
from taskobs.relay_client.client import RelayClient
from taskobs.testing.receiver import Receiver
from tests.support.relay_peer import PATIENCE
from tests.support.relay_process import (
    RESOURCE,
    Client,
    Forked,
    RelayProcess,
    addressed,
    wait_until_true,
)
from tests.support.relay_spans import TRACER, end, found, span, start

NO_ROOM = 2**45
"""Bytes of a thread's stack for which no process has the address space."""

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="needs Unix sockets")


@pytest.fixture
def relay(receiver: Receiver) -> Generator[RelayProcess]:
    with RelayProcess(receiver) as relay:
        yield relay


# What goes through.


def test_a_span_arrives_as_it_was(receiver: Receiver, worker: Client) -> None:
    """I find my span in the backend with all that I gave it."""
    parent = SpanContext(0xA, 0xB, is_remote=True)
    with TRACER.start_as_current_span("outer") as outer:
        one = TRACER.start_span(
            "run shop.pay",
            kind=SpanKind.CONSUMER,
            attributes={"text": "ü", "number": 5, "list": [1, 2]},
            links=[Link(parent, {"celery.link": "publish"})],
            start_time=1_000,
        )
    one.add_event("exception", {"exception.type": "ValueError"}, 1_500)
    one.set_status(StatusCode.ERROR, "no money")
    one.end(2_000)
    assert isinstance(one, ReadableSpan)
    worker.raw(FrameKind.END, span_encoder.pack_end(one))
    worker.flush()
    told = found(receiver, one)
    assert told.resource == RESOURCE
    assert told.parent_id == f"{outer.get_span_context().span_id:016x}"
    assert (told.name, told.kind, told.scope) == ("run shop.pay", "consumer", "shop")
    assert (told.start_ns, told.end_ns) == (1_000, 2_000)
    assert told.attributes == {"text": "ü", "number": 5, "list": [1, 2]}
    assert (told.status, told.message) == ("error", "no money")
    (event,) = told.events
    assert (event.name, event.time_ns) == ("exception", 1_500)
    assert event.attributes == {"exception.type": "ValueError"}
    (link,) = told.links
    assert (int(link.trace_id, 16), int(link.span_id, 16)) == (0xA, 0xB)
    assert link.attributes == {"celery.link": "publish"}


def test_an_envelope_arrives_once(receiver: Receiver, worker: Client) -> None:
    """A failure is one event in Sentry, also when its process wasn't sure and sent it again."""
    event_id = "0123456789abcdef0123456789abcdef"
    item = b'{"event_id":"%s","message":"no money"}' % event_id.encode()
    head = b'{"event_id":"%s"}\n{"type":"event","length":%d}\n' % (event_id.encode(), len(item))
    for _ in range(2):
        worker.raw(FrameKind.ENVELOPE, addressed(receiver.dsn, head + item))
    worker.acknowledged(2)
    assert [event.event_id for event in receiver.events] == [event_id]
    told = worker.status()
    assert told["duplicate"] == {"envelope": 1}
    assert told["received"] == {"envelope": 2}


def test_what_is_out_is_acknowledged(receiver: Receiver, worker: Client) -> None:
    """What the relay has not sent yet, its client keeps, in case that the relay dies."""
    receiver.behave("/v1/traces", status=503)
    worker.raw(*end())
    worker.raw(FrameKind.LOG, b"a record")
    assert receiver.wait_for(lambda r: any(one.status == 503 for one in r.requests), PATIENCE)
    worker.raw(FrameKind.STATUS)
    worker.wait_for(FrameKind.STATUS_REPLY)
    assert worker.of(FrameKind.ACK) == []
    receiver.behave("/v1/traces")
    worker.acknowledged(2)


def test_with_a_spool_what_is_on_disk_is_acknowledged(tmp_path: Path) -> None:
    """With a spool nothing waits for the backend, and a kill of the relay loses nothing."""
    spool = {"directory": str(tmp_path), "bytes": 10_000_000, "age": 3600}
    with Receiver() as receiver, RelayProcess(receiver, spool=spool) as relay:
        receiver.behave("/v1/traces", status=503)
        with closing(relay.worker()) as worker:
            one, other = end("one"), end("other")
            opened = span("open")
            child = Forked(relay, start(opened))
            worker.raw(*one)
            worker.flush()
            worker.acknowledged(1)
            wait_until_true(lambda: worker.status()["open"] == {"span": 1})
            relay.signal(signal.SIGKILL)
            relay.wait()
        child.kill()
        receiver.behave("/v1/traces")
        relay.start()
        with closing(relay.worker()) as worker:
            worker.raw(*one)  # again: it did not hear that it was safe
            worker.raw(*other)
            assert receiver.wait_for(lambda r: len(r.spans) >= 3, PATIENCE)
            worker.close_gracefully()
        assert relay.wait() == 0
        assert sorted(one.name for one in receiver.spans) == ["one", "open", "other"]
        assert found(receiver, opened).attributes[semconv.TASKOBS_LOST] is True


# What is lost.


def test_what_a_killed_process_had_open_arrives_as_lost(
    receiver: Receiver, relay: RelayProcess, worker: Client
) -> None:
    """The OOM killer takes a child: I see the span that it was in."""
    one = span()
    child = Forked(relay, start(one))
    wait_until_true(lambda: worker.status()["open"] == {"span": 1})
    child.kill()
    told = found(receiver, one)
    assert told.status == "error"
    assert str(child.pid) in told.message
    assert told.start_ns < told.end_ns
    assert told.resource == RESOURCE
    assert told.attributes == {
        "given": "at the start",
        semconv.TASKOBS_LOST: True,
        semconv.ERROR_TYPE: "lost",
    }
    assert worker.status()["lost"] == {"span": 1}


def test_the_parents_word_on_a_run_is_what_counts(
    receiver: Receiver, relay: RelayProcess, worker: Client
) -> None:
    """A hard time limit: the run says so, once; what ran inside it is lost."""
    run, inner = span("run shop.pay", SpanKind.CONSUMER), span()
    child = Forked(relay, start(run), start(inner))
    wait_until_true(lambda: worker.status()["open"] == {"span": 2})
    child.kill()
    found(receiver, inner)
    row = frames.unpack(span_encoder.pack_start(run)[span_encoder.KEY_BYTES :])
    row[span_encoder.END_NS] = row[span_encoder.START_NS] + 5
    row[span_encoder.ATTRIBUTES] = {
        semconv.CELERY_OUTCOME: "lost",
        semconv.ERROR_TYPE: "TimeLimitExceeded",
    }
    payload = span_encoder.pack_start(run)[: span_encoder.KEY_BYTES] + pack(row)
    worker.raw(FrameKind.END, payload)
    worker.raw(FrameKind.END, payload)
    worker.flush()
    told = found(receiver, run)
    assert told.attributes[semconv.ERROR_TYPE] == "TimeLimitExceeded"
    worker.close_gracefully()
    assert relay.wait() == 0
    assert len(receiver.spans) == 2


def test_a_run_is_lost_when_the_whole_worker_ends(
    receiver: Receiver, relay: RelayProcess, worker: Client
) -> None:
    """Nobody is left to tell how it ended: the run is there, as lost."""
    run = span("run shop.pay", SpanKind.CONSUMER)
    child = Forked(relay, start(run))
    wait_until_true(lambda: worker.status()["open"] == {"span": 1})
    worker.close_gracefully()
    child.kill()
    assert relay.wait() == 0
    assert found(receiver, run).attributes[semconv.CELERY_OUTCOME] == "lost"


# Its end.


def test_it_ends_when_its_worker_has(receiver: Receiver, relay: RelayProcess) -> None:
    """My worker stops: the relay sends what it has, and goes too."""
    worker, child = relay.worker(), relay.client().hello()
    worker.close_gracefully()
    for _ in range(2_000):
        child.raw(*end())
    assert relay.running
    child.close_gracefully()
    assert relay.wait() == 0
    assert len(receiver.spans) == 2_000
    assert relay.log == ""


def test_it_ends_within_its_grace_when_the_backend_is_away() -> None:
    """My collector is down while I stop: that costs seconds, not minutes, and is said."""
    with RelayProcess(None, grace=1.0) as relay:
        worker = relay.worker()
        for _ in range(7):
            worker.raw(*end())
        worker.close_gracefully()
        assert relay.wait() == 0
        assert "dropped in all: 7 spans: not sent when the relay ended" in relay.log


def test_it_ends_when_its_worker_was_killed_before_it_said_a_word(tmp_path: Path) -> None:
    """No relay is left behind by a worker that didn't even start."""
    with RelayProcess(None, parent=2**22 + 1, spool={"directory": str(tmp_path)}) as relay:
        assert relay.wait() == 0


def test_ctrl_c_is_not_for_it(receiver: Receiver, relay: RelayProcess, worker: Client) -> None:
    """Ctrl-C stops my worker softly, and what it does until its end is still exported."""
    worker.status()
    relay.signal(signal.SIGINT)
    relay.signal(signal.SIGHUP)
    worker.raw(*end())
    worker.flush()
    assert len(receiver.spans) == 1


def test_sigterm_waits_for_the_worker(
    receiver: Receiver, relay: RelayProcess, worker: Client
) -> None:
    """Systemd stops all processes at once: the worker's last spans are exported."""
    worker.status()
    relay.signal(signal.SIGTERM)
    worker.raw(*end())
    worker.flush()
    worker.close_gracefully()
    assert relay.wait() == 0
    assert len(receiver.spans) == 1


def test_a_second_sigterm_drains_at_once(
    receiver: Receiver, relay: RelayProcess, worker: Client
) -> None:
    """I want it gone, now: it sends what it has, and ends."""
    worker.raw(*end())
    worker.status()
    relay.signal(signal.SIGTERM)
    worker.status()
    relay.signal(signal.SIGTERM)
    assert relay.wait() == 0
    assert len(receiver.spans) == 1


def test_it_refuses_what_it_cannot_work_with() -> None:
    """A relay that can't work says why, in one line, with a status of its own."""
    with RelayProcess(None) as relay:
        relay.process.kill()
        relay.wait()
        for text in ("no JSON", "[]", '{"grace": "long"}', '{"exporter": 5}'):
            relay.start(text=text)
            assert relay.wait() == 2
        assert relay.log.count("cannot start") == 4
        assert "Traceback" not in relay.log


def test_it_says_why_it_cannot_start_a_thread() -> None:
    """My user may have no more threads: the relay says so, in one line."""
    with RelayProcess(None) as relay:
        relay.process.kill()
        relay.wait()
        relay.start(limits={resource.RLIMIT_STACK: NO_ROOM})
        assert relay.wait() == 2
        assert "no more threads" in relay.log
        assert "Traceback" not in relay.log


# With the client that workers have.


def hello(role: str) -> dict[str, object]:
    return {"role": role, "name": "celery@host", "resource": RESOURCE, "schema_url": ""}


def test_a_client_outlives_its_relay(receiver: Receiver, relay: RelayProcess) -> None:
    """The relay is killed twice while my worker works: each span arrives, each once."""
    receiver.behave("/v1/traces", status=503)
    client = RelayClient(relay.address, lambda: hello("worker"))
    spans = [span(f"span {number}") for number in range(30)]
    for number, one in enumerate(spans):
        client.started(*keyed(start(one)))
        if number in {10, 20}:
            relay.restart()
        if number >= 5:
            ended = spans[number - 5]
            assert isinstance(ended, Span)
            ended.end()
            client.ended(*keyed((FrameKind.END, span_encoder.pack_end(ended))))
    receiver.behave("/v1/traces")
    assert client.flush(PATIENCE)
    assert client.close_gracefully(PATIENCE)
    client.close()
    assert relay.wait() == 0
    names_of = [one.name for one in receiver.spans]
    assert sorted(names_of) == sorted(one.name for one in spans)
    lost = {one.name for one in receiver.spans if semconv.TASKOBS_LOST in one.attributes}
    assert lost == {one.name for one in spans[-5:]}


def keyed(frame: tuple[FrameKind, bytes]) -> tuple[bytes, bytes]:
    return frame[1][: span_encoder.KEY_BYTES], frame[1]


# Small, and not to be overrun.


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_it_is_small(receiver: Receiver, tmp_path: Path) -> None:
    """With a spool and Sentry on, after thousands of spans, it takes less than 60 MB."""
    spool = {"directory": str(tmp_path), "bytes": 100_000_000, "age": 3600}
    with RelayProcess(receiver, spool=spool) as relay, closing(relay.worker()) as worker:
        event = b'{}\n{"type":"event","length":2}\n{}'
        worker.raw(FrameKind.ENVELOPE, addressed(receiver.dsn, event))
        for _ in range(5_000):
            worker.raw(*end())
        assert receiver.wait_for(lambda r: len(r.spans) == 5_000 and bool(r.events), 60)
        assert relay.rss() < 60


def test_it_loads_no_celery(tmp_path: Path) -> None:
    """`import taskobs.relay` costs next to nothing, and the process itself has no Celery."""
    script = "import sys, {0}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    for module, hidden_modules in (
        ("taskobs.relay", {"celery", "sentry_sdk", "opentelemetry", "msgpack"}),
        ("taskobs.relay.__main__", {"celery", "kombu", "billiard", "sentry_sdk", "gevent"}),
    ):
        command = [sys.executable, "-c", script.format(module)]
        output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
        assert not hidden_modules & set(output.stdout.split())


HUGE = (0xFFFF_FFFF).to_bytes(4, "big") + b"\x04"
GREETED = {
    "garbage": b"GET / HTTP/1.1\r\n\r\n",
    "a huge length": HUGE,
    "an empty frame": b"\0\0\0\0\0",
    "a kind of the relay's": encode(FrameKind.ACK, pack(1)),
    "a key alone": encode(FrameKind.END, b"short"),
    "a flush that is no number": encode(FrameKind.FLUSH, pack("one")),
    "a flush of no route": encode(FrameKind.FLUSH, pack([1, "route"])),
    "Sentry that is none": encode(FrameKind.ENVELOPE, envelopes.prefix(pack(["dsn"])) + b"{}"),
    "an envelope cut short": encode(FrameKind.ENVELOPE, b"\0\0\1\0short"),
    "a second hello": encode(FrameKind.HELLO, pack({})),
    "flushes without end": encode(FrameKind.FLUSH, pack(1)) * 100,
}
FIRST = {
    "silence": b"",
    "an end before hello": encode(FrameKind.END, b"k" * 30),
    "a hello that is none": encode(FrameKind.HELLO, pack([1])),
    "a hello of another version": encode(FrameKind.HELLO, pack({"v": 99})),
    "a bomb": encode(FrameKind.HELLO, b"\xdd\xff\xff\xff\xff"),
    "a deep one": encode(FrameKind.HELLO, b"\x91" * 60_000),
}


def test_hostile_clients_are_hung_up_on(
    receiver: Receiver, relay: RelayProcess, worker: Client
) -> None:
    """Whatever a process writes to the socket, the others' spans arrive."""
    receiver.behave("/v1/traces", status=503)
    worker.raw(*end())  # so that no flush is answered
    hostile = [relay.client() for _ in FIRST]
    for one, said in zip(hostile, FIRST.values(), strict=True):
        one.wire.sendall(said)
    for said in GREETED.values():
        hostile.append(relay.client().hello())
        hostile[-1].wire.sendall(said)
    with contextlib.ExitStack() as stack:
        for one in hostile:
            stack.callback(one.close)
        for one in hostile:
            assert one.hung_up()
    receiver.behave("/v1/traces")
    worker.raw(*end())
    worker.flush()
    assert len(receiver.spans) == 2
    assert relay.running
    assert "Traceback" not in relay.log
    assert len(relay.log.splitlines()) < 12


def test_a_client_that_reads_no_answers_is_hung_up_on(relay: RelayProcess, worker: Client) -> None:
    """What the relay has to say to a client that doesn't listen is bounded."""
    deaf = relay.client()
    with contextlib.suppress(ConnectionError), closing(deaf):
        while True:
            deaf.raw(FrameKind.STATUS)
    assert worker.status()["clients"] == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_ten_thousand_open_runs_fill_no_memory(receiver: Receiver) -> None:
    """With `keep`, 10,000 runs that are not sampled are open: the relay stays below 60 MB."""
    with (
        RelayProcess(receiver, keep=["failed"]) as relay,
        closing(relay.worker()) as worker,
        closing(relay.client().hello()) as pool,
    ):
        packed = span_encoder.pack_end(span())[KEY_BYTES:]
        for number in range(20_000):
            key = bytes(16) + (10_000 + number).to_bytes(8, "big")
            run = (number % 10_000).to_bytes(8, "big")
            pool.raw(FrameKind.END, with_mark(key + packed, Mark(is_run=False, run=run)))
        pool.flush()
        counts = worker.status()
        [no_room] = counts["dropped"]["held span"].values()
        assert counts["held"]["span"] + no_room == 20_000
        assert counts["held"]["span"] > 5_000
        assert relay.rss() < 60
        assert receiver.spans == ()


def test_spans_without_end_fill_no_memory(relay: RelayProcess, worker: Client) -> None:
    """An app that leaks spans keeps its telemetry, and the relay its size."""
    leaky = relay.client().hello()
    packed = span_encoder.pack_start(span())[span_encoder.KEY_BYTES :] + b"x" * 2_000
    for number in range(5_000):
        leaky.raw(FrameKind.START, number.to_bytes(span_encoder.KEY_BYTES, "big") + packed)
    leaky.status()
    leaky.raw(*end())
    leaky.flush()
    assert worker.status()["open"]["span"] <= 2_000
    if Path("/proc/self/status").exists():
        assert relay.rss() < 60
    leaky.close()


def test_rubbish_in_a_batch_costs_the_batch_nothing(receiver: Receiver, worker: Client) -> None:
    """One client's malformed span doesn't take the others with it."""
    worker.raw(FrameKind.END, b"k" * span_encoder.KEY_BYTES + b"\xc1 rubbish")
    worker.raw(*end())
    worker.flush()
    worker.acknowledged(2)
    assert len(receiver.spans) == 1
    assert worker.status()["dropped"] == {"span": {"malformed": 1}}


def test_what_the_clients_dropped_is_counted(worker: Client) -> None:
    """I ask what was lost, and what never reached the relay is in it."""
    worker.say(FrameKind.DROPPED, {"END": 5, "ENVELOPE": 1})
    full = "a process's buffer was full"
    assert worker.status()["dropped"] == {"span": {full: 5}, "envelope": {full: 1}}


def test_a_span_whose_end_was_dropped_is_not_lost_as_well(
    receiver: Receiver, worker: Client
) -> None:
    """It counts once: among what was dropped."""
    dropped, open_ = span("dropped"), span("open")
    for one in (dropped, open_):
        worker.raw(*start(one))
    worker.raw(FrameKind.FORGET, start(dropped)[1][: span_encoder.KEY_BYTES])
    worker.acknowledged(1)
    worker.close_gracefully()
    found(receiver, open_)
    assert [one.name for one in receiver.spans] == ["open"]
