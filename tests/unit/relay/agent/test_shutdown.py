"""When a relay ends, what it is told, and how long it waits for a client; on clocks of the test."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Generator

import pytest

from taskobs.protocol.frames import FrameKind, encode, pack
from taskobs.relay.agent import connection as limits
from taskobs.relay.agent import settings
from taskobs.relay.agent.connection import Connection, HangUpError, peer, settle
from taskobs.relay.agent.settings import ConfigurationError, RelaySettings
from taskobs.relay.agent.shutdown import TERM_WAIT, ShutdownPolicy, Worker
from taskobs.relay.agent.wakeup_pipe import WakeupPipe
from taskobs.relay.tracking.process_state import ProcessState

GRACE = 10.0


def look(
    ending: ShutdownPolicy,
    now: float,
    *,
    ended: bool = True,
    connected: bool = False,
    waiting: bool = False,
) -> bool:
    ending.update(now, worker_ended=ended, connected=connected, waiting=waiting)
    return ending.shutting_down


def test_it_works_on_as_long_as_its_worker_does() -> None:
    """A worker that is idle for a day, and not even connected, keeps its relay."""
    ending = ShutdownPolicy(GRACE)
    assert not look(ending, 0, ended=False)
    assert not look(ending, 86_400, ended=False)
    assert not ending.finished(86_400, 0)


def test_it_works_on_for_a_child_that_outlives_its_worker() -> None:
    """The worker was killed, a child goes on: its spans are exported."""
    ending = ShutdownPolicy(GRACE)
    assert not look(ending, 0, connected=True)
    assert not look(ending, 3_600, connected=True)
    assert look(ending, 3_601)
    assert ending.finished(3_601, 0)


def test_it_waits_for_what_is_open_but_not_for_ever() -> None:
    """A process that was cut off and lives may come back; that is waited for, within a bound."""
    ending = ShutdownPolicy(GRACE)
    assert not look(ending, 0, waiting=True)
    assert not look(ending, GRACE - 1, waiting=True)
    assert look(ending, GRACE, waiting=True)


def test_sending_what_is_left_has_a_bound() -> None:
    """The collector is down: the relay gives up in time."""
    ending = ShutdownPolicy(GRACE)
    look(ending, 0)
    assert not ending.finished(GRACE - 1, 5)
    assert ending.finished(GRACE, 5)


def test_a_late_client_is_served() -> None:
    """Somebody connects while the relay is about to end: it stays."""
    ending = ShutdownPolicy(GRACE)
    assert look(ending, 0)
    assert not look(ending, 1, connected=True)
    assert look(ending, 60)
    assert not ending.finished(61, 1)


def test_sigterm_has_a_bound_too() -> None:
    """A relay that was told to end doesn't wait for ever for a worker that goes on."""
    ending = ShutdownPolicy(GRACE)
    ending.terminate(0)
    assert not look(ending, TERM_WAIT - 1, ended=False, connected=True)
    assert look(ending, TERM_WAIT, ended=False, connected=True)
    other = ShutdownPolicy(GRACE)
    other.terminate(0)
    other.terminate(1)
    assert look(other, 1, ended=False, connected=True)


def test_a_worker_is_gone_when_it_says_so_or_has_ended() -> None:
    """Both ends of a worker are seen."""
    alive = True
    worker = Worker(os.getpid(), lambda pid, _: alive and pid == os.getpid())
    assert not worker.ended
    worker.closed_cleanly = True
    assert worker.ended
    worker.closed_cleanly = alive = False
    assert worker.ended


# What it is told.


def test_the_configuration_is_read() -> None:
    """A worker's settings arrive, secrets too, and not over the command line."""
    told: dict[str, object] = {
        "worker": "celery@host",
        "parent": 7,
        "exporter": {"protocol": "grpc", "endpoint": "http://x:4317", "headers": {"key": "secret"}},
        "spool": {"directory": "/spool", "bytes": 1, "age": 2},
        "grace": 3,
        "of a later release": True,
    }
    assert settings.parse(json.dumps(told)) == RelaySettings(
        worker="celery@host",
        parent=7,
        protocol="grpc",
        endpoint="http://x:4317",
        headers={"key": "secret"},
        spool={"directory": "/spool", "bytes": 1, "age": 2},
        grace=3,
    )


def test_what_is_not_given_has_a_default() -> None:
    """Nothing at all is enough; the worker is whoever started it."""
    assert settings.parse(b"", worker="w") == RelaySettings(worker="w", parent=os.getppid())


WRONG = (
    *("{", "[" * 100_000, "5", '{"spool": 5}', '{"exporter": [1]}', '{"grace": -1}'),
    *('{"grace": true}', '{"grace": NaN}', '{"parent": "x"}', '{"exporter": {"headers": "a=b"}}'),
)


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_wrong_configuration_is_refused(text: str) -> None:
    """What a worker of this release doesn't give is refused in words."""
    with pytest.raises(ConfigurationError):
        settings.parse(text)


# How long a client is waited for.


@pytest.fixture
def pair() -> Generator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    connection = Connection(ours, 0.0)
    yield connection, theirs
    connection.close()
    theirs.close()


def process() -> ProcessState:
    return ProcessState(client=b"c" * 16, pid=7, started=0, parent=1, resource_blob=b"")


def test_a_client_has_to_say_who_it_is(pair: tuple[Connection, socket.socket]) -> None:
    """One that connects and is silent, or dribbles, doesn't hold a place for ever."""
    connection, theirs = pair
    theirs.sendall(encode(FrameKind.HELLO, b"x" * 100)[:-1])
    assert connection.receive(limits.HELLO_WITHIN - 1) == []
    assert not connection.overdue(limits.HELLO_WITHIN)
    assert connection.overdue(limits.HELLO_WITHIN + 1)


def test_a_frame_has_to_end(pair: tuple[Connection, socket.socket]) -> None:
    """A byte now and then doesn't keep a frame unfinished."""
    connection, theirs = pair
    connection.introduced(process(), 0.0)
    frame = encode(FrameKind.DROPPED, pack(1))
    assert not connection.overdue(10_000)  # a client may be silent
    for second in range(30, 60):
        theirs.sendall(encode(FrameKind.END, b"x" * 100)[second - 30 : second - 29])
        assert connection.receive(float(second)) == []
    assert not connection.overdue(30 + limits.FRAME_WITHIN)
    assert connection.overdue(31 + limits.FRAME_WITHIN)
    theirs.sendall(encode(FrameKind.END, b"x" * 100)[30:] + frame + frame[:2])
    assert len(connection.receive(70.0)) == 2
    assert not connection.overdue(70 + limits.FRAME_WITHIN)


def test_a_client_that_has_parted_has_to_go(pair: tuple[Connection, socket.socket]) -> None:
    """After CLOSED a connection is over, also for a client that doesn't end it."""
    connection, theirs = pair
    connection.introduced(process(), 0.0)
    connection.note_close()
    connection.answer_close()
    connection.answer_close()
    assert theirs.recv(100) == encode(FrameKind.CLOSED)
    connection.note_close()  # it asks again
    connection.answer_close()
    assert theirs.recv(100) == encode(FrameKind.CLOSED)
    assert connection.overdue(limits.CLOSE_WITHIN + 1)


def test_what_is_settled_in_another_order_is_acknowledged_in_order(
    pair: tuple[Connection, socket.socket],
) -> None:
    """An ACK says that all up to it is safe."""
    connection, theirs = pair
    for settled in (False, False, True, False):
        connection.arrived(settled=settled)
    connection.acknowledge()
    assert settle([(connection, 2), "nobody's"]) == [connection]
    connection.acknowledge()
    connection.settle(1)
    connection.acknowledge()
    connection.acknowledge()
    assert theirs.recv(100) == encode(FrameKind.ACK, pack(3))


def test_a_client_that_reads_nothing_is_told_once_and_then_left(
    pair: tuple[Connection, socket.socket],
) -> None:
    """Answers that nobody reads are bounded, and ACKs don't pile up."""
    connection, theirs = pair
    with pytest.raises(HangUpError):
        connection.send(FrameKind.STATUS_REPLY, b"x" * 3_000_000)
    connection.arrived(settled=True)
    connection.acknowledge()
    assert connection.writing
    theirs.close()
    connection.write()
    assert not connection.writing


def test_the_end_of_a_client_is_seen_after_what_it_sent(
    pair: tuple[Connection, socket.socket],
) -> None:
    """A child that is killed right after a span has ended has sent it."""
    connection, theirs = pair
    connection.send(FrameKind.ACK, pack(1))  # unread at its end: the connection is reset
    theirs.sendall(encode(FrameKind.DROPPED, pack(1)))
    theirs.close()
    assert connection.receive(0.0) == [(FrameKind.DROPPED, pack(1))]
    with pytest.raises(HangUpError) as error:
        connection.receive(0.0)
    assert not error.value.reason


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="needs Linux")
def test_a_client_is_known_by_what_the_kernel_says(
    pair: tuple[Connection, socket.socket],
) -> None:
    """Who connects can't be pretended."""
    assert peer(pair[1]) == (os.getpid(), os.geteuid())
    assert pair[0].pid == os.getpid()


def test_a_mailbox_never_blocks() -> None:
    """A sender's thread, or a signal, is never held up by the loop."""
    wakeup_pipe = WakeupPipe()
    for number in range(50_000):
        wakeup_pipe.released([number])
    assert wakeup_pipe.empty() == list(range(50_000))
    assert wakeup_pipe.empty() == []
    wakeup_pipe.close()
    wakeup_pipe.wake()
