"""Processes that are killed, and a relay that reads what they wrote to shared memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Span
from opentelemetry.trace import SpanKind

from taskobs import semconv
from taskobs.protocol.frames import FrameKind
from taskobs.protocol.held_spans.marks import Mark, with_mark
from taskobs.testing.receiver import Receiver
from tests.support.relay_peer import PATIENCE
from tests.support.relay_process import Client, RelayProcess, Writer, wait_until_true
from tests.support.relay_spans import TRACER, end, ended, found, span, start

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create(2)")


@pytest.fixture
def relay(receiver: Receiver) -> Generator[RelayProcess]:
    with RelayProcess(receiver, memory=True) as relay:
        yield relay


def test_what_a_killed_process_wrote_last_arrives(
    receiver: Receiver, relay: RelayProcess, worker: Client
) -> None:
    """My child is killed right after a span: it arrives, and what was open is lost."""
    one, other = span("open"), span("done")
    with Writer(relay) as child:
        state = child.tell(start(one), start(other), ended(other))
        assert state == (0, True)  # it has never connected
    assert semconv.TASKOBS_LOST in found(receiver, one).attributes
    assert semconv.TASKOBS_LOST not in found(receiver, other).attributes
    worker.close_gracefully()
    assert relay.wait() == 0


def test_both_may_be_killed(receiver: Receiver, relay: RelayProcess, worker: Client) -> None:
    """My child and its relay are killed at once: the next relay finds all that it had told."""
    relay.signal(signal.SIGSTOP)
    one, other = span("open"), span("done")
    with Writer(relay) as child:
        assert child.tell(start(one), start(other), ended(other)) == (0, True)
    relay.restart()
    worker.close()
    with closing(relay.worker()) as again:
        assert semconv.TASKOBS_LOST in found(receiver, one).attributes
        assert semconv.TASKOBS_LOST not in found(receiver, other).attributes
        again.close_gracefully()
    assert relay.wait() == 0
    assert sorted(one.name for one in receiver.spans) == ["done", "open"]


def test_a_process_that_writes_faster_than_the_relay_looks(
    receiver: Receiver, relay: RelayProcess, worker: Client
) -> None:
    """Many times what fits into the ring, at once: all arrive, each once."""
    with Writer(relay) as child:
        for _ in range(10):
            child.tell(*(end(f"span {number}") for number in range(500)))
        assert receiver.wait_for(lambda r: len(r.spans) == 5_000, PATIENCE)
        child.tell((FrameKind.CLOSE, b""))
    counts = worker.status()
    assert counts["received"]["span"] == 5_000
    worker.close_gracefully()
    assert relay.wait() == 0
    assert len({one.span_id for one in receiver.spans}) == 5_000


def test_a_relay_that_is_stopped_keeps_nobody_waiting(
    receiver: Receiver, relay: RelayProcess, worker: Client
) -> None:
    """More than the ring holds is told, and the rest goes over the socket, when it can."""
    relay.signal(signal.SIGSTOP)
    with Writer(relay) as child:
        for _ in range(10):
            child.tell(*(end(f"span {number}") for number in range(500)))
        relay.signal(signal.SIGCONT)
        assert receiver.wait_for(lambda r: len(r.spans) == 5_000, PATIENCE)
    assert len({one.span_id for one in receiver.spans}) == 5_000
    assert worker.status()


def test_the_relay_ends_with_the_last_process(
    receiver: Receiver, relay: RelayProcess, worker: Client
) -> None:
    """A child may live on after its worker has sent CLOSE; what it tells arrives."""
    one = span()
    with Writer(relay) as child:
        child.tell(start(one))
        worker.close_gracefully()
        wait_until_true(lambda: relay.memory is not None and bool(relay.memory.taken()))
        child.tell(ended(one), (FrameKind.CLOSE, b""))
    assert relay.wait() == 0
    assert semconv.TASKOBS_LOST not in found(receiver, one).attributes


@pytest.mark.parametrize("spooled", [True, False])
def test_a_run_that_is_held_outlives_a_kill_of_the_relay(
    receiver: Receiver, tmp_path: Path, *, spooled: bool
) -> None:
    """The relay is killed in the middle of a run that is not sampled and fails: it is whole."""
    spool = {"directory": str(tmp_path), "bytes": 10_000_000, "age": 3600} if spooled else None
    run, other = run_span("run x"), run_span("run y")
    query = inside(run, "query")
    with (
        RelayProcess(receiver, memory=True, spool=spool, keep=["failed"]) as relay,
        Writer(relay) as child,
    ):
        with closing(relay.worker()) as worker:
            child.tell(held(inside(other, "before"), other), held(other, other))
            wait_until_true(lambda: worker.status()["discarded"] == {"span": 2})
            child.tell(held(query, run))
            wait_until_true(lambda: worker.status()["held"] == {"span": 1})
        relay.restart()
        run.set_attribute(semconv.CELERY_OUTCOME, "failed")
        child.tell(held(run, run), (FrameKind.CLOSE, b""))
        assert {found(receiver, one).name for one in (query, run)} == {"query", "run x"}
        with closing(relay.worker()) as worker:
            worker.close_gracefully()
        assert relay.wait() == 0
    assert len(receiver.spans) == 2


def run_span(name: str) -> Span:
    one = span(name, SpanKind.CONSUMER)
    assert isinstance(one, Span)
    return one


def inside(run: Span, name: str) -> Span:
    one = TRACER.start_span(name, trace.set_span_in_context(run))
    assert isinstance(one, Span)
    return one


def held(one: Span, run: Span) -> tuple[FrameKind, bytes]:
    """End a span of a run as one that is not sampled."""
    kind, payload = ended(one)
    mark = Mark(one is run, run.get_span_context().span_id.to_bytes(8, "big"))
    return kind, with_mark(payload, mark)
