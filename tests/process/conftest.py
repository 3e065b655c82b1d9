"""What tests of single processes share: a backend, and a connection to the test's relay."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import pytest

from taskobs.testing.receiver import Receiver
from tests.support.relay_process import Client, RelayProcess


@pytest.fixture
def receiver() -> Generator[Receiver]:
    """Give a backend that takes spans and events."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def worker(relay: RelayProcess) -> Generator[Client]:
    """Give the connection of the worker's main process to the relay of this test."""
    with closing(relay.worker()) as worker:
        yield worker
