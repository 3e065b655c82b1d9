"""What tests of single processes share: a backend, and a connection to the test's relay."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import pytest

from tests.support.fixtures import app, peer, receiver, spans
from tests.support.relay_process import Client, RelayProcess

__all__ = ["app", "peer", "receiver", "spans"]


@pytest.fixture
def worker(relay: RelayProcess) -> Generator[Client]:
    """Give the connection of the worker's main process to the relay of this test."""
    with closing(relay.worker()) as worker:
        yield worker
