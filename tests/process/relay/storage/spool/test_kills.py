"""A spool whose relay, or whose worker, is killed."""

# A few tests look inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from taskobs.relay.counters import Counters
from taskobs.relay.storage.spool.store import Spool, SpoolConfig
from tests.support.spool import leave, look, taken

WRITER = """
import sys, itertools
from pathlib import Path
from taskobs.relay.counters import Counters
from taskobs.relay.storage.spool.worker_process import WorkerProcess
from taskobs.relay.storage.spool.store import SpoolConfig, Spool
from taskobs.relay.storage.items import Item, Start
spool = Spool(Counters(), SpoolConfig(Path(sys.argv[1]), "celery@a"))
for n in itertools.count():
    key = b"%024d" % n
    spool.append([], starts=[Start(key, b"open", b"resource_blob", b"client")])
    spool.append([Item("span", b"%d" % n, b"resource_blob")], ended=[key])
    print(n, flush=True)
"""


KILLED = """
import os, sys
from pathlib import Path
from taskobs.relay.counters import Counters
from taskobs.relay.storage.items import Item
from taskobs.relay.storage.spool.store import Spool, SpoolConfig
spool = Spool(Counters(), SpoolConfig(Path(sys.argv[1]), "celery@a"))
spool.append([Item("span", b"before", b"about")])
for path in spool.path.parent.iterdir():
    if path.name.endswith(sys.argv[2]):
        path.unlink()
spool.check()
spool.append([Item("span", b"after", b"about", "source")])
os._exit(0)
"""


@pytest.fixture
def config(tmp_path: Path) -> SpoolConfig:
    return SpoolConfig(tmp_path / "spool", "celery@a", worker_pid=os.getpid())


def test_all_that_was_committed_outlives_a_kill(config: SpoolConfig) -> None:
    """The kernel kills the relay at any moment: what it had acknowledged is there, once."""
    script = [sys.executable, "-c", WRITER, str(config.directory)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == 200:
                writer.kill()
                break
        told = max([200, *map(int, writer.stdout.read().split())])
    with closing(Spool(Counters(), config)) as spool:
        ended = len(spool.ended())
        numbers = [int(payload) for payload in taken(spool)]
        assert numbers == list(range(len(numbers)))
        assert told < len(numbers) <= told + 2
        assert ended == len(numbers)
        assert len(spool.starts()) <= 1


@pytest.mark.parametrize("suffix", [".spool", ".spool-wal", ".spool-shm", ".lock", ""])
def test_a_kill_after_it_was_written_again_loses_nothing(config: SpoolConfig, suffix: str) -> None:
    """A file of the spool is removed, then the relay is killed: all of it is sent by the next."""
    command = [sys.executable, "-c", KILLED, str(config.directory), suffix]
    subprocess.run(command, check=True)
    with closing(Spool(Counters(), config)) as spool:
        assert taken(spool) == [b"before", b"after"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_zombie_is_a_dead_worker(config: SpoolConfig) -> None:
    """My worker ended and nobody waits for it: what it left is sent by another one."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        leave(config, "other", process.pid, b"1")
        with closing(Spool(Counters(), config)) as spool:
            assert spool.pending("span").items == 0
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
            look(spool)
            assert taken(spool) == [b"1"]
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
