"""A task in a worker of another process, as ``celery worker`` starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from celery import Celery

from taskobs.testing import Telemetry

HERE = Path(__file__).parents[1]


@pytest.fixture
def worker_process(taskobs_telemetry: Telemetry, tmp_path: Path) -> Generator[Celery]:
    """Start a worker whose telemetry comes here; give an app that publishes to it."""
    environment = {
        **os.environ,
        **taskobs_telemetry.worker_environment(),
        "CELERY_BROKER_URL": "filesystem://",
        "SHOP_FOLDER": str(tmp_path),
    }
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--concurrency", "1"]
    producer = Celery("web", broker="filesystem://", set_as_current=False)
    producer.conf.broker_transport_options = dict.fromkeys(
        ("data_folder_in", "data_folder_out", "control_folder"), str(tmp_path)
    )
    with subprocess.Popen(command, env=environment, cwd=HERE) as worker:
        yield producer
        worker.terminate()


@pytest.mark.taskobs(timeout=60)
def test_a_worker_process(taskobs_telemetry: Telemetry, worker_process: Celery) -> None:
    """What the worker sends is in the test's trace."""
    result = worker_process.send_task("shop.charge_card", args=(1002, 900_000))
    run = taskobs_telemetry.run("shop.charge_card")
    assert run.outcome == "failed"
    assert taskobs_telemetry.trace_of(result).tree == (
        "publish shop.charge_card\n  run shop.charge_card\n    bank.charge"
    )
    assert taskobs_telemetry.event("shop.charge_card").trace_id == run.trace_id
    assert taskobs_telemetry.log("declined the card").task_id == result.id
