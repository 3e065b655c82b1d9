"""How much memory a store in memory takes, measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FILL = """
import os, time, uuid
from taskobs.relay.agent.connection import Connection
from taskobs.relay.counters import Counters
from taskobs.protocol.frames import pack
from taskobs.relay.storage.memory import MEMORY, MemoryStore
from taskobs.relay.storage.items import Item
import socket

connection = Connection(socket.socketpair()[0], 0.0)

def resident():
    with open("/proc/self/statm") as figures:
        return int(figures.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def item(number):
    task = str(uuid.uuid4())
    attributes = {f"messaging.attribute.{n}": f"a value of its own {n}" for n in range(15)}
    attributes |= {"messaging.message.id": task, "celery.root_id": task}
    ids = [os.urandom(16), os.urandom(8), os.urandom(8)]
    span = pack(["run shop.pay", *ids, True, 1, "", 4, time.time_ns(), time.time_ns(), attributes])
    return Item("span", span, b"resource_blob", (connection, connection.arrived(settled=False)))

counters = Counters()
store = MemoryStore(counters)
item(0)
before = resident()
while not counters.total("dropped"):
    store.append([item(n) for n in range(20)])
said = store.pending("span")
print(resident() - before, said.bytes, said.items, MEMORY)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc")
def test_a_full_store_takes_what_it_says() -> None:
    """I give the relay's container 60 MB, and an outage of an hour does not end it."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FILL)],
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    took, said, items, limit = map(int, done.stdout.split())
    assert limit * 0.9 < said <= limit
    assert took < said * 1.3 + 1024 * 1024, done.stdout
    assert items > 15_000
