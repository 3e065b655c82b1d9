"""The doctor's queue, message and result are gone in the end."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from celery import Celery
from kombu.transport.memory import Channel

from taskobs.cli.doctor import probing
from taskobs.cli.doctor.evidence import Connection, Evidence, Probe
from taskobs.cli.doctor.probe import publish, worker_app
from taskobs.cli.doctor.probe.message import VARIABLE, Order
from taskobs.cli.doctor.probe.worker import remove_spool
from tests.support.doctor import evidence

ORDER = Order(
    app="shop",
    queue="taskobs-doctor-1",
    folder="/nowhere",
    task_id="probe-1",
    doctor=1,
)


def test_a_queue_that_is_bound_to_nothing_is_deleted(app: Celery) -> None:
    """Where a queue is a thing of its own, as in SQS, it is gone, not only empty."""
    found = Probe()
    publish.publish(app, ORDER, None, found)
    assert found.publish_error is None
    assert Channel.queues[ORDER.queue].qsize() == 1
    assert publish.delete_queue(app, ORDER.queue) is None
    assert ORDER.queue not in Channel.queues


def test_no_route_of_the_app_leads_the_probe_elsewhere(app: Celery) -> None:
    """My routes send every task to a queue of mine, by exchange and key: not this one."""
    app.conf.task_routes = {"*": {"queue": "mine", "exchange": "mine", "routing_key": "mine"}}
    publish.publish(app, ORDER, None, Probe())
    assert Channel.queues[ORDER.queue].qsize() == 1
    assert "mine" not in Channel.queues
    assert publish.delete_queue(app, ORDER.queue) is None


def test_a_result_is_deleted(app: Celery) -> None:
    """The result backend has nothing of the probe's."""
    app.backend.store_result(ORDER.task_id, ValueError("planted"), "FAILURE")
    assert publish.is_stored(app, ORDER)
    publish.forget(app, ORDER)
    assert app.AsyncResult(ORDER.task_id).state == "PENDING"


def test_a_queue_that_can_not_be_deleted_is_said_to_be_left() -> None:
    """The broker has gone away in the middle."""
    app = Celery("shop", broker="redis://127.0.0.1:1", set_as_current=False)
    assert "refused" in (publish.delete_queue(app, ORDER.queue) or "")


def test_the_spool_of_that_worker_alone_is_removed(tmp_path: Path) -> None:
    """My own workers' spools stay."""
    (tmp_path / "lane").mkdir()
    mine = tmp_path / "celery@host.spool"
    others = [
        tmp_path / "taskobs-doctor-1@host.lock",
        tmp_path / "lane/taskobs-doctor-1@host.spool",
    ]
    for path in (mine, *others):
        path.touch()
    remove_spool(tmp_path, "taskobs-doctor-1", None)
    assert [path for path in (mine, *others) if path.exists()] == [mine]


def test_a_broker_in_memory_gets_no_probe() -> None:
    """No worker could take it: its messages are for one process."""
    made: Evidence = evidence()
    made.broker = Connection("memory")
    with ExitStack() as stack:
        assert probing.start_worker(stack, made) is None


def test_a_worker_whose_doctor_was_killed_before_it_was_ready_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I kill the doctor while its worker starts: the worker stops as soon as it can."""
    stopped = threading.Event()
    order = replace(ORDER, folder=str(tmp_path), doctor=os.getpid())  # which is not its parent
    monkeypatch.setenv(VARIABLE, order.as_text())

    def stop(*_: object) -> None:
        stopped.set()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        worker_app.note_ready()
        assert stopped.wait(30)
    finally:
        signal.signal(signal.SIGTERM, before)
