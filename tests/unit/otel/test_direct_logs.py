"""A process without a relay exports its log records in batches, bounded, and anew after a fork."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator

import pytest
from opentelemetry.sdk.resources import Resource

from taskobs.config.settings import resolve
from taskobs.otel.export.logs import MOST, DirectLogs, LogExporterFactory
from taskobs.protocol.log_entries import LogEntry, pack_entry
from taskobs.testing.receiver import Receiver

PATIENCE = 60.0


def payload(body: str) -> bytes:
    now = time.time_ns()
    return pack_entry(LogEntry(now, now, 9, "INFO", body, "", "", 0, "shop", {}))


def direct_to(receiver: Receiver) -> DirectLogs:
    settings = resolve({"logs": "otlp", "otlp_endpoint": receiver.endpoint}, {})
    return DirectLogs(LogExporterFactory(settings), lambda: Resource({"service.name": "shop"}))


@pytest.fixture
def receiver() -> Generator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
def direct(receiver: Receiver) -> Generator[DirectLogs]:
    made = direct_to(receiver)
    made.begin()
    yield made
    made.shutdown()
    for thread in threading.enumerate():
        if thread.name == "taskobs-logs":
            thread.join(PATIENCE)


def test_records_arrive_by_themselves_in_one_request(
    receiver: Receiver, direct: DirectLogs
) -> None:
    """Nobody has to flush: what I log is there a second later."""
    # Made before: the first one starts the timer.
    for line in [payload(f"line {number}") for number in range(100)]:
        direct.put(line)
    assert receiver.wait_for(lambda there: len(there.logs) == 100, PATIENCE)
    assert len(receiver.requests) == 1
    assert receiver.logs[0].resource == {"service.name": "shop"}


def test_a_flush_sends_what_waits(receiver: Receiver, direct: DirectLogs) -> None:
    """At the end of a process nothing waits for a timer."""
    direct.put(payload("hello"))
    direct.flush()
    assert [one.body for one in receiver.logs] == ["hello"]


def test_a_worker_starts_nothing_before_it_knows_whether_it_has_a_relay(
    receiver: Receiver,
) -> None:
    """The first lines of a worker wait; they are exported from there only if it has no relay."""
    made = direct_to(receiver)
    made.put(payload("early"))
    assert not [one for one in threading.enumerate() if one.name == "taskobs-logs"]
    made.begin()
    assert receiver.wait_for(lambda there: len(there.logs) == 1, PATIENCE)
    made.shutdown()


def test_nothing_is_started_before_the_first_record(receiver: Receiver, direct: DirectLogs) -> None:
    """A process that logs nothing has no thread and no connection of ours."""
    assert not [one for one in threading.enumerate() if one.name == "taskobs-logs"]
    direct.flush()
    assert receiver.requests == ()


def test_more_than_can_wait_is_dropped_and_said(
    receiver: Receiver, direct: DirectLogs, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that logs without end takes a bounded memory; the log says how much was lost."""
    with caplog.at_level(logging.WARNING, "taskobs"):
        # Made before: the first one starts the timer.
        for line in [payload(str(number)) for number in range(MOST + 50)]:
            direct.put(line)
        direct.flush()
    arrived = len(receiver.logs)
    assert MOST <= arrived < MOST + 50  # the thread may have sent some meanwhile
    assert f"{MOST + 50 - arrived} lost" in caplog.text


def test_a_collector_that_is_down_is_said_once(
    receiver: Receiver, direct: DirectLogs, caplog: pytest.LogCaptureFixture
) -> None:
    """The outage is one line, not one for each batch."""
    receiver.behave("/v1/logs", status=400)
    with caplog.at_level(logging.WARNING, "taskobs"):
        for number in range(3):
            direct.put(payload(str(number)))
            direct.flush()
    assert caplog.text.count("log export to") == 1


def test_what_waits_can_be_given_to_a_relay(receiver: Receiver, direct: DirectLogs) -> None:
    """A worker's first lines are logged before its relay runs: the relay sends them."""
    direct.put(payload("early"))
    assert len(direct.take()) == 1
    direct.flush()
    assert receiver.logs == ()
