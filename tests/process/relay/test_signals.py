"""Signals that are meant for a worker and reach its relay too."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from taskobs.protocol.frames import FrameKind
from taskobs.relay_client.launcher import Launcher
from taskobs.testing.receiver import Receiver
from tests.support.relay_process import Client, RelayProcess
from tests.support.relay_spans import end

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="needs Unix sockets")

NAMES = (
    *("SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF"),
    *("SIGPIPE", "SIGPOLL", "SIGPWR", "SIGSTKFLT", "SIGXCPU", "SIGXFSZ", "SIGTSTP", "SIGTTIN"),
    *("SIGTTOU", "SIGRTMIN", "SIGRTMAX"),
)
SENT = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
"""What ends or stops a process that does not handle it, but for SIGTERM and faults of the CPU."""


@pytest.fixture
def relay(receiver: Receiver) -> Generator[RelayProcess]:
    with RelayProcess(receiver) as relay:
        yield relay


@pytest.mark.parametrize("number", SENT, ids=lambda number: signal.Signals(number).name)
def test_a_signal_for_the_worker_does_not_end_its_relay(
    receiver: Receiver, relay: RelayProcess, worker: Client, number: signal.Signals
) -> None:
    """I run `pkill -USR1 -f celery`, which matches the relay too: it works on."""
    worker.status()
    relay.signal(number)
    worker.raw(*end())
    worker.flush()
    assert len(receiver.spans) == 1
    worker.close_gracefully()
    assert relay.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM], ids=["SIGUSR1", "SIGTERM"])
def test_a_signal_that_comes_while_the_relay_starts_does_not_end_it(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The same signal strikes before the relay has read its settings: it starts all the same."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    exporter = {"protocol": "http/protobuf", "endpoint": f"{receiver.endpoint}/v1/traces"}
    settings = {"worker": "celery@host", "parent": os.getpid(), "grace": 5.0, "exporter": exporter}
    launcher = Launcher(settings, warn=pytest.fail)
    try:
        assert launcher.start()
        assert launcher.pid is not None
        os.kill(launcher.pid, number)
        with closing(Client(launcher.address).hello(role="worker")) as worker:
            worker.raw(FrameKind.STATUS)
            worker.wait_for(FrameKind.STATUS_REPLY)
            worker.close_gracefully()
        assert launcher.wait(60)
    finally:
        if launcher.pid is not None:
            os.kill(launcher.pid, signal.SIGKILL)
            launcher.wait(60)
        launcher.close()
