"""A relay with a spool, in bad company."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import pytest

from taskobs.protocol.envelopes import prefix
from taskobs.protocol.frames import FrameKind, pack
from taskobs.relay.counters import Counters
from taskobs.relay.export.destinations import WINDOW
from taskobs.relay.storage.items import Item
from taskobs.relay.storage.spool.store import Spool, SpoolConfig
from taskobs.relay_client.client import RelayClient
from taskobs.testing.receiver import Receiver
from tests.support.export import Backend, Reply, backend
from tests.support.relay_peer import PATIENCE
from tests.support.relay_process import RelayProcess, Writer, addressed, wait_until_true
from tests.support.relay_spans import end

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="needs Unix sockets")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def relay(receiver: Receiver, directory: Path) -> Generator[RelayProcess]:
    """Give a relay with a spool, whose backend is down."""
    receiver.behave("/v1/traces", status=503)
    spool = {"directory": str(directory), "bytes": 10_000_000, "age": 3600}
    with RelayProcess(receiver, memory=True, spool=spool) as relay:
        yield relay


def removed(directory: Path) -> None:
    shutil.rmtree(directory)


def moved(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


@pytest.mark.parametrize("change", [removed, moved])
def test_a_spool_that_is_removed_before_a_kill_of_the_relay_costs_nothing(
    receiver: Receiver,
    relay: RelayProcess,
    directory: Path,
    change: Callable[[Path], None],
) -> None:
    """A clean-up removes the directory during an outage, then the relay is killed: all arrive."""
    with closing(relay.worker()) as worker:
        worker.raw(*end("over the socket"))
        worker.acknowledged(1)
    with Writer(relay) as child:
        child.tell(end("in memory"))
        wait_until_true(lambda: spooled(relay) == 2)
        change(directory)
        wait_until_true((directory / "celery@host.spool").exists)
        wait_until_true(lambda: "was removed while in use" in relay.log)
        child.tell(end("later"))
        wait_until_true(lambda: spooled(relay) == 3)
        relay.restart()
        receiver.behave("/v1/traces")
        assert receiver.wait_for(lambda r: len(r.spans) >= 3, PATIENCE)
        child.tell((FrameKind.CLOSE, b""))
    with closing(relay.worker()) as worker:
        worker.close_gracefully()
    assert relay.wait() == 0
    names = sorted(one.name for one in receiver.spans)
    assert names == ["in memory", "later", "over the socket"]
    assert relay.log.count("was removed while in use") == 1


def test_a_kill_doubles_what_is_under_way_and_nothing_else(directory: Path) -> None:
    """The relay is killed while it waits for responses: those requests are repeated, no other one.

    What a backend has accepted before is not sent again, and what waited is sent once.
    """
    slow = False
    spool = {"directory": str(directory), "bytes": 10_000_000, "age": 3600}
    with backend(respond=lambda _: Reply(delay=600.0 if slow else 0.0)) as there:
        exporter = {"protocol": "http/protobuf", "endpoint": there.endpoint, "headers": None}
        with RelayProcess(None, memory=True, spool=spool, exporter=exporter) as relay:
            with closing(relay.worker()) as worker:
                for number in range(4):  # so that several go out at a time
                    worker.raw(*event(there.dsn, number))
                    wait_until_true(lambda n=number: spooled(relay, "envelope") > n)
                    wait_until_true(lambda: not waiting(relay))
                worker.raw(*end("before"))
                wait_until_true(lambda: spooled(relay) == 1 and not waiting(relay))
                slow = True
                worker.raw(*end("under way"))
                wait_until_true(lambda: "under way" in sent_spans(there))
                for number in range(4, 40):
                    worker.raw(*event(there.dsn, number))
                worker.raw(*end("waiting"))
                wait_until_true(lambda: spooled(relay) == 3 and spooled(relay, "envelope") == 40)
                # As many as go out at a time: no other one may be on its way at the kill.
                wait_until_true(lambda: there.under_way == 1 + WINDOW)
                relay.restart()
            under_way = set(sent_events(there)[4:])
            slow = False
            with closing(relay.worker()) as worker:
                worker.raw(*event(there.dsn, 40))  # which says where the others go
                wait_until_true(lambda: len(set(sent_events(there))) == 41)
                wait_until_true(lambda: "waiting" in sent_spans(there))
                worker.close_gracefully()
            assert relay.wait() == 0
        assert Counter(sent_spans(there)) == {"before": 1, "under way": 2, "waiting": 1}
        doubled = {one for one, number in Counter(sent_events(there)).items() if number > 1}
        assert 0 < len(under_way) < 36
        assert doubled == under_way
        assert len(sent_events(there)) == 41 + len(under_way)


def sent_spans(there: Backend) -> list[str]:
    return [name for one in there.requests if one.path == "/v1/traces" for name in one.names]


def sent_events(there: Backend) -> list[str]:
    bodies = [one.body for one in there.requests if one.path.startswith("/api/")]
    return [json.loads(body.split(b"\n", 1)[0])["event_id"] for body in bodies]


def event(dsn: str, number: int) -> tuple[FrameKind, bytes]:
    """An event as its process sends it."""
    envelope = b'{"event_id":"%032d"}\n{"type":"event","length":2}\n{}' % number
    return FrameKind.ENVELOPE, addressed(dsn, envelope)


def test_what_no_spool_can_take_stays_with_its_process(
    receiver: Receiver, relay: RelayProcess, directory: Path
) -> None:
    """The directory can't be made again: what is told now is read again after a kill."""
    with Writer(relay) as child:
        child.tell(end("before"))
        wait_until_true(lambda: spooled(relay) == 1)
        shutil.rmtree(directory)
        directory.write_text("in the way")
        wait_until_true(lambda: "can't be written again" in relay.log)
        child.tell(end("after"))
        wait_until_true(lambda: spooled(relay) == 2)
        relay.signal(signal.SIGKILL)
        relay.wait()
        directory.unlink()
        relay.start()
        receiver.behave("/v1/traces")
        assert receiver.wait_for(lambda r: "after" in [one.name for one in r.spans], PATIENCE)


@pytest.mark.parametrize("memory", [True, False])
def test_what_waits_is_sent_to_a_client_that_a_process_has_and_does_not_use(
    receiver: Receiver, directory: Path, *, memory: bool
) -> None:
    """My worker is restarted after an outage: events from before go out, with no new failure."""
    event = b'{"event_id":"%s"}\n{"type":"event","length":2}\n{}'
    client = pack({"dsn": receiver.dsn, "options": {}})
    config = SpoolConfig(directory, "celery@host", worker_pid=os.getpid())
    with closing(Spool(Counters(), config)) as spool:
        spool.append([Item("envelope", event % (b"%032d" % n), client) for n in range(3)])
    settings = {"directory": str(directory), "bytes": 10_000_000, "age": 3600}
    with RelayProcess(receiver, memory=memory, spool=settings) as relay:
        said: dict[str, object] = {"role": "worker", "name": "", "resource": {}, "schema_url": ""}
        worker = RelayClient(relay.address, lambda: said, memory=relay.memory)
        worker.announce(client)
        worker.open()
        assert receiver.wait_for(lambda r: len(r.events) == 3, PATIENCE)
        assert worker.close_gracefully(PATIENCE)
        assert relay.wait() == 0


def spooled(relay: RelayProcess, kind: str = "span") -> int:
    with closing(relay.client()) as client:
        return int(client.status()["spooled"].get(kind, 0))


def waiting(relay: RelayProcess) -> int:
    with closing(relay.client()) as client:
        return sum(client.status()["pending"].values())


def test_a_planted_spool_sends_nothing_to_its_own_address(
    receiver: Receiver, directory: Path
) -> None:
    """Somebody puts a spool among mine with events for their own server: it hears nothing."""
    event = b'{"event_id":"%s"}\n{"type":"event","length":2}\n{}'
    with Receiver() as theirs:
        client = pack({"dsn": theirs.dsn, "options": {}})
        planted = SpoolConfig(directory, "celery@host", worker_pid=os.getpid())
        with closing(Spool(Counters(), planted)) as spool:
            spool.append([Item("envelope", event % (b"0" * 32), client)])
        settings = {"directory": str(directory), "bytes": 10_000_000, "age": 3600}
        with RelayProcess(receiver, spool=settings) as relay, closing(relay.worker()) as worker:
            ours = prefix(pack({"dsn": receiver.dsn, "options": {}}))
            worker.raw(FrameKind.ENVELOPE, ours + event % (b"1" * 32))
            assert receiver.wait_for(lambda r: len(r.events) == 1, PATIENCE)
            assert worker.status()["parked"] == {"envelope": 1}
            worker.close_gracefully()
            assert relay.wait() == 0
        assert not theirs.requests
    assert [one.event_id for one in receiver.events] == ["1" * 32]
