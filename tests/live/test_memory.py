"""What a process holds does not grow with what it has run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.unmeasured import unmeasured
from tools.worker_soak import Held, Looks, problems

if TYPE_CHECKING:
    from tests.live.celery_process import Broker, LiveApp

MEMORY = "tests.live.apps.memory"
TOOLS = Path(__file__).parents[2] / "tools"
SMALL = Held(resident=50.0, proportional=30.0, descriptors=20, threads=1)


def run(tool: str, *arguments: str) -> str:
    command = [sys.executable, str(TOOLS / tool), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=unmeasured())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_memory_is_flat() -> None:
    """My worker runs tasks, failing ones too, and each of them leaves nothing behind."""
    assert "memory is flat" in run("soak.py", "--runs", "4000", "--every", "1000")


@pytest.mark.usefixtures("redis_server")  # skips where there is none
def test_no_process_of_a_worker_grows() -> None:
    """My worker, its children and their relay hold what they held, as a worker without them."""
    assert "nothing grows" in run("worker_soak.py", "--tasks", "3000", "--first", "1000")


@pytest.mark.parametrize(
    ("later", "named"),
    [
        (Held(54.0, 34.0, 20, 1), "relay: 4.0 MB more, of 3 allowed"),
        (Held(50.0, 30.0, 21, 1), "relay: 1 more descriptors"),
        (Held(50.0, 30.0, 20, 2), "relay: 1 more threads"),
        (Held(52.0, 31.0, 20, 1), ""),
        (Held(40.0, 20.0, 19, 1), ""),
    ],
)
def test_what_grows_is_named(later: Held, named: str) -> None:
    """Something grows: I read which process, and by how much."""
    looks: Looks = {5_000: {"relay": SMALL}, 50_000: {"relay": later}}
    bare: Looks = {5_000: {"parent": SMALL}, 50_000: {"parent": SMALL}}
    assert problems(bare, looks, 3.0) == ([named] if named else [])


def test_what_a_bare_worker_grows_by_is_its_own() -> None:
    """Celery's own processes grow: that is not counted against taskobs."""
    grown = Held(59.0, 39.0, 22, 1)
    looks: Looks = {5_000: {"children": SMALL}, 50_000: {"children": grown}}
    assert problems(looks, looks, 3.0) == []


def own_memory(live: LiveApp, broker: Broker, **env: str) -> int:
    """Start a worker, and ask a child of its pool for the bytes that it has to itself."""
    worker = live.worker(broker, concurrency=1, app=MEMORY, env=env)
    number = live.producer(broker, app=MEMORY).run(
        "result = app.own_memory.delay().get(timeout=90)"
    )
    assert worker.stop() == 0
    return int(number)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_frozen_objects_stay_shared(live: LiveApp, file_broker: Broker) -> None:
    """I set `TASKOBS_GC_FREEZE`, and a pool child copies less of what its worker has loaded."""
    without = own_memory(live, file_broker)
    frozen = own_memory(live, file_broker, TASKOBS_GC_FREEZE="true")
    assert frozen < 0.85 * without
