"""Fixtures that the unit ring and the ring of single processes share."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from celery import Celery

from taskobs.testing.receiver import Receiver
from tests.support.recording import PrivateApp, Recorder, instrumented
from tests.support.relay_peer import Peer


@pytest.fixture
def app() -> Generator[Celery]:
    """Give an app on a broker in memory, which nobody consumes from."""
    app = PrivateApp("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def spans() -> Generator[Recorder]:
    """Give the spans that Celery makes while the test runs."""
    recorder = Recorder()
    with instrumented(recorder):
        yield recorder


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Generator[Receiver]:
    """Give a backend that takes spans and events; a session waits for it, also when it is busy."""
    monkeypatch.setenv("TASKOBS_SHUTDOWN_TIMEOUT", "60")
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def peer() -> Generator[Peer]:
    """Give the relay's side of the socket."""
    peer = Peer()
    yield peer
    peer.close()
