"""The doctor's queue, message and result are gone in the end."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from celery import Celery
from kombu.transport.memory import Channel

from taskobs.cli.doctor import probing
from taskobs.cli.doctor.evidence import Connection, Evidence, Probe
from taskobs.cli.doctor.probe import publish
from taskobs.cli.doctor.probe.message import Order
from taskobs.cli.doctor.probe.worker import remove_spool
from tests.support.doctor import evidence

ORDER = Order(app="shop", queue="taskobs-doctor-1", folder="/nowhere", task_id="probe-1")


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
