"""The memory that processes share: it keeps its size, and says whether somebody reads it."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from taskobs.protocol import shared_memory
from taskobs.protocol.frames import FrameKind
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay_client import connection
from taskobs.relay_client.client import RelayClient
from tests.support.pids import NO_PROCESS

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create(2)")


@pytest.fixture
def shared() -> Generator[SharedMemory]:
    made = SharedMemory.create()
    assert made is not None
    yield made
    made.close()


@pytest.mark.parametrize("size", [0, 4_096, 2**40])
def test_nobody_changes_its_size(shared: SharedMemory, size: int) -> None:
    """A process of my user truncates it: my pool children are not killed by SIGBUS."""
    for descriptor in (shared.descriptor, os.open(f"/proc/self/fd/{shared.descriptor}", os.O_RDWR)):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
        if descriptor != shared.descriptor:
            os.close(descriptor)
    assert shared.whole
    assert shared.take() == 0
    shared.free(0)  # what the system gets back is no change of its size


def test_memory_without_seals_is_refused() -> None:
    """What another process could truncate is not mapped."""
    descriptor = os.memfd_create("taskobs")
    os.ftruncate(descriptor, shared_memory.PAGE + shared_memory.SLOTS * shared_memory.SLOT_BYTES)
    other = SharedMemory(descriptor)
    assert not other.whole
    assert SharedMemory.of(os.getpid(), descriptor) is None
    other.close()


def test_the_main_process_alone_gives_the_relay_up(shared: SharedMemory) -> None:
    """The socket's file is missing, or the relay is: as long as my worker lives, it cares."""
    assert not shared.abandoned
    shared.relay_started(NO_PROCESS)
    assert not shared.abandoned
    shared.abandon()
    assert shared.abandoned


def test_nobody_reads_when_worker_and_relay_were_killed(shared: SharedMemory) -> None:
    """My child outlives both, and exports what it has recorded itself."""
    client = RelayClient("/nowhere", dict, memory=shared)
    client.ended(b"k" * 24, b"k" * 24 + b"span")
    shared.relay_started(os.getpid())
    shared._note(shared_memory._MAIN_AT, NO_PROCESS)  # pyright: ignore[reportPrivateUsage]
    assert not shared.abandoned  # the relay goes on alone
    shared.relay_started(NO_PROCESS)
    assert shared.abandoned
    assert client.close_gracefully(1.0)
    assert client.unavailable
    assert client.undelivered(FrameKind.END) == [b"k" * 24 + b"span"]


def test_a_process_never_concludes_alone_that_there_is_no_relay(
    shared: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody answers where the relay was: the process goes on writing to the memory."""
    monkeypatch.setattr(connection, "_TRY_EVERY", 0.0)
    client = RelayClient("/nowhere/at/all", dict, memory=shared)
    assert not client.flush(0.05)
    client.ended(b"k" * 24, b"k" * 24 + b"span")
    assert not client.unavailable
    assert client.undelivered(FrameKind.END) == []
    shared.abandon()
    client.open()
    assert client.unavailable
    assert client.undelivered(FrameKind.END) == [b"k" * 24 + b"span"]
    client.close()


def test_an_address_is_looked_up_again_where_nobody_answers(
    shared: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay's socket had to be made elsewhere: a process that connects later finds it."""
    monkeypatch.setattr(connection, "_TRY_EVERY", 0.0)
    client = RelayClient("/nowhere/at/all", dict, memory=shared)
    shared.set_address("/somewhere/else")
    client.open()
    found = client._channel.connection._address  # pyright: ignore[reportPrivateUsage]
    assert found == shared.address == "/somewhere/else"
    client.close()
