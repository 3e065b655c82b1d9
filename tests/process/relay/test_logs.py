"""Log records through a real relay: to the backend, over its death, and beside spans."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from taskobs.protocol.frames import FrameKind
from taskobs.protocol.log_entries import LogEntry, pack_entry
from taskobs.relay_client.client import RelayClient
from taskobs.testing.receiver import Receiver
from tests.support.relay_peer import PATIENCE
from tests.support.relay_process import RelayProcess

HELLO: Mapping[str, object] = {
    "role": "worker",
    "name": "celery@host",
    "resource": {"service.name": "shop"},
    "schema_url": "",
}


def log(body: str, **attributes: object) -> bytes:
    now = time.time_ns()
    ids = "1" * 32, "2" * 16
    return pack_entry(LogEntry(now, now, 9, "INFO", body, *ids, 1, "shop.tasks", attributes))


def sending(receiver: Receiver, **more: Any) -> RelayProcess:
    """Start a relay that sends log records to a receiver."""
    logs = {"protocol": "http/protobuf", "endpoint": f"{receiver.endpoint}/v1/logs"}
    return RelayProcess(receiver, memory=True, logs=logs, **more)


def client_of(relay: RelayProcess) -> RelayClient:
    return RelayClient(relay.address, lambda: dict(HELLO), memory=relay.memory)


def bodies(receiver: Receiver) -> list[object]:
    return [one.body for one in receiver.logs]


def test_a_log_record_arrives_with_all_that_it_holds() -> None:
    """What a process of my worker logs is in the backend, with ids, attributes and resource."""
    with Receiver() as receiver, sending(receiver) as relay:
        client = client_of(relay)
        client.send(FrameKind.LOG, log("hello", task_id="7", items=[1, 2]))
        assert client.flush(PATIENCE)
        [found] = receiver.logs
        assert (found.body, found.severity, found.severity_text) == ("hello", 9, "INFO")
        assert (found.trace_id, found.span_id, found.flags) == ("1" * 32, "2" * 16, 1)
        assert found.attributes == {"task_id": "7", "items": [1, 2]}
        assert (found.scope, found.resource) == ("shop.tasks", {"service.name": "shop"})
        client.close()


def test_the_last_records_of_a_killed_process_arrive() -> None:
    """A child of my worker is killed, and what it logged the moment before is there."""
    with Receiver() as receiver, sending(receiver) as relay:
        worker = relay.worker()
        if not (child := os.fork()):
            client = client_of(relay)
            client.send(FrameKind.LOG, log("the last words"))
            os._exit(1)
        os.waitpid(child, 0)
        assert receiver.wait_for(lambda there: bodies(there) == ["the last words"], PATIENCE)
        worker.close()


def test_a_backend_of_logs_that_is_down_holds_up_no_span_and_loses_nothing() -> None:
    """My log backend is down for a while: its records wait, and arrive once."""
    with Receiver() as receiver, sending(receiver) as relay:
        receiver.behave("/v1/logs", status=503)
        client = client_of(relay)
        for number in range(20):
            client.send(FrameKind.LOG, log(f"line {number}"))
        client.open()
        assert receiver.wait_for(
            lambda there: any(one.path == "/v1/logs" for one in there.requests), PATIENCE
        )
        receiver.behave("/v1/logs", status=200)
        assert client.flush(PATIENCE)
        assert sorted(map(str, bodies(receiver))) == sorted(f"line {n}" for n in range(20))
        client.close()


def test_a_relay_that_is_killed_leaves_its_records_to_the_next_one() -> None:
    """The relay is killed while my log backend is down: the next one sends what it held."""
    with Receiver() as receiver, sending(receiver) as relay:
        receiver.behave("/v1/logs", status=503)
        client = client_of(relay)
        client.send(FrameKind.LOG, log("kept"))
        client.open()
        assert receiver.wait_for(
            lambda there: any(one.path == "/v1/logs" for one in there.requests), PATIENCE
        )
        # Before the backend is back: what it accepted from a killed relay would come again.
        relay.signal(signal.SIGKILL)
        relay.wait()
        receiver.behave("/v1/logs", status=200)
        relay.start()
        assert receiver.wait_for(lambda there: bodies(there) == ["kept"], PATIENCE)
        client.close()


def test_the_spool_keeps_log_records(tmp_path: Path) -> None:
    """With a spool, records that were not sent when my worker ended are sent by the next one."""
    spool = {"directory": str(tmp_path), "bytes": 64 * 1024 * 1024, "age": 3600.0}
    with Receiver() as receiver:
        receiver.behave("/v1/logs", status=503)
        with sending(receiver, spool=spool, grace=0.0) as relay:
            client = client_of(relay)
            client.send(FrameKind.LOG, log("kept on disk"))
            client.open()
            worker = relay.worker()
            deadline = time.monotonic() + PATIENCE
            while worker.status()["spooled"].get("log") != 1:
                assert time.monotonic() < deadline
            client.close()
            worker.close()
            relay.signal(signal.SIGKILL)
            relay.wait()
            receiver.behave("/v1/logs", status=200)
            relay.start()
            assert receiver.wait_for(lambda there: bodies(there) == ["kept on disk"], PATIENCE)


def test_a_flood_of_log_records_is_bounded_and_counted() -> None:
    """A loop that logs without end drops records, and the relay says how many."""
    number = 6_000
    with Receiver() as receiver, sending(receiver) as relay:
        receiver.behave("/v1/logs", hang=True)
        client = client_of(relay)
        for one in range(number):
            client.send(FrameKind.LOG, log(f"{one}", text="x" * 2_000))
        client.open()
        worker = relay.worker()
        deadline = time.monotonic() + PATIENCE
        while True:
            found = worker.status()
            dropped = sum(found["dropped"].get("log", {}).values())
            counted = found["received"].get("log", 0) + found["dropped"].get("log", {}).get(
                "a process's buffer was full", 0
            )
            if dropped and counted == number:
                break
            assert time.monotonic() < deadline, found
        assert "span" not in found["dropped"]
        client.close()
        worker.close()


def test_records_without_a_destination_are_counted() -> None:
    """A relay that has no exporter for logs drops them, and says so."""
    with Receiver() as receiver, RelayProcess(receiver, memory=True) as relay:
        client = client_of(relay)
        client.send(FrameKind.LOG, log("nowhere"))
        assert client.flush(PATIENCE)
        worker = relay.worker()
        assert sum(worker.status()["dropped"]["log"].values()) == 1
        worker.close()
        client.close()


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x91\x01"])
def test_a_malformed_record_is_dropped_alone(payload: bytes) -> None:
    """Whatever a process sends as a record, the next one arrives."""
    with Receiver() as receiver, sending(receiver) as relay:
        client = client_of(relay)
        client.send(FrameKind.LOG, payload)
        client.send(FrameKind.LOG, log("good"))
        assert client.flush(PATIENCE)
        assert bodies(receiver) == ["good"]
        client.close()
