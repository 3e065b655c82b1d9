"""What a relay says while its backends can't be reached, and when it ends like that."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from taskobs.protocol import span_encoder
from taskobs.protocol.frames import FrameKind
from taskobs.testing.receiver import Receiver
from tests.support.envelopes import envelope
from tests.support.export import Reply, backend, spans
from tests.support.relay_process import Client, RelayProcess, addressed, wait_until_true

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="needs Unix sockets")


@pytest.fixture
def port() -> Generator[int]:
    """Give a port at which nobody listens, and nobody else will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


def send(client: Client, dsn: str, *, number_of_spans: int, number_of_events: int) -> None:
    for span in spans(*[f"span {number}" for number in range(number_of_spans)]):
        client.raw(FrameKind.END, span_encoder.pack_end(span))
    for number in range(number_of_events):
        client.raw(FrameKind.ENVELOPE, addressed(dsn, envelope(number)))


def warnings(relay: RelayProcess) -> list[str]:
    return [line for line in relay.log.splitlines() if "WARNING" in line or "ERROR" in line]


def test_what_was_not_sent_is_said_with_its_number_and_reason(port: int) -> None:
    """Both backends are down when my worker stops: its log says how much is lost, and why."""
    with RelayProcess(None, grace=1.0) as relay, closing(relay.worker()) as worker:
        send(worker, f"http://s3cret@127.0.0.1:{port}/1", number_of_spans=7, number_of_events=3)
        wait_until_true(lambda: len(worker.status()["failing"]) == 2)
        worker.close_gracefully()
        assert relay.wait() == 0
        last = warnings(relay)[-1]
        refused = r"no response \(ConnectionRefusedError: Connection refused\)"
        assert re.search(rf"7 spans: not sent when the relay ended \({refused}\)", last)
        assert re.search(rf"3 envelopes: not sent when the relay ended \({refused}\)", last)
        assert "s3cret" not in relay.log


def test_what_stays_in_the_spool_is_said_with_its_number(port: int, tmp_path: Path) -> None:
    """Both backends are down when my worker stops, and it has a spool: nothing is lost."""
    spool = {"directory": str(tmp_path / "spool"), "bytes": 10_000_000, "age": 3600.0}
    with RelayProcess(None, grace=1.0, spool=spool) as relay, closing(relay.worker()) as worker:
        send(worker, f"http://key@127.0.0.1:{port}/1", number_of_spans=7, number_of_events=3)
        wait_until_true(lambda: len(worker.status()["failing"]) == 2)
        worker.close_gracefully()
        assert relay.wait() == 0
        assert re.search(r"7 spans stay in the spool: no response", relay.log)
        assert re.search(r"3 envelopes stay in the spool: no response", relay.log)
        assert "dropped" not in relay.log


def test_an_outage_takes_one_line_when_it_begins_and_one_when_it_ends(port: int) -> None:
    """Sentry and the collector are away for a while: two lines each, none of any library."""
    with RelayProcess(None) as relay, closing(relay.worker()) as worker:
        send(worker, f"http://key@127.0.0.1:{port}/1", number_of_spans=3, number_of_events=3)

        def retried() -> bool:  # each by a thread of its own
            number = worker.status()["retried"]
            return all(number.get(kind, 0) >= 2 for kind in ("span", "envelope"))

        wait_until_true(retried)
        lines = warnings(relay)
        assert len(lines) == 2, lines
        assert {"span export failed" in line for line in lines} == {True, False}
        assert {f"envelope export to 127.0.0.1:{port} failed" in line for line in lines} == {
            True,
            False,
        }


def test_a_relay_that_has_lost_nothing_says_nothing(receiver: Receiver) -> None:
    """All is sent when my worker stops: its log has no line of the relay."""
    with RelayProcess(receiver) as relay, closing(relay.worker()) as worker:
        send(worker, receiver.dsn, number_of_spans=3, number_of_events=3)
        worker.flush()
        assert len(receiver.events) == 3
        worker.close_gracefully()
        assert relay.wait() == 0
        assert warnings(relay) == []


@pytest.mark.parametrize("level", [logging.WARNING, logging.INFO])
def test_the_relay_logs_at_the_workers_level(level: int) -> None:
    """With ``celery worker -l INFO`` I read that my backend has no metrics; else nothing of it."""
    with backend(respond=lambda request: Reply(404 if "metrics" in request.path else 200)) as there:
        exporter = {"protocol": "http/protobuf", "endpoint": there.endpoint}
        with (
            RelayProcess(None, exporter=exporter, log_level=level) as relay,
            closing(relay.worker()) as worker,
        ):
            worker.flush()
            worker.close_gracefully()
            assert relay.wait() == 0
            said = "INFO/relay] taskobs relay: the backend takes no metrics (HTTP 404)"
            assert (said in relay.log) is (level == logging.INFO)
            assert warnings(relay) == []
