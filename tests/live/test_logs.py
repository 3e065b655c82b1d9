"""Log records of real workers and producers, over OTLP and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taskobs.testing.receiver import Receiver
from taskobs.testing.wire import ReceivedLog
from tests.live.celery_process import Broker, LiveApp, Worker
from tests.live.process import LIMIT

APP = "tests.live.apps.logs"
SENT = {"TASKOBS_LOGS": "otlp"}
SAID = "an argument that nobody else may read"


def of(receiver: Receiver, body: str) -> list[ReceivedLog]:
    """Give the records with this in their text."""
    return [one for one in receiver.logs if body in str(one.body)]


def wait_for(receiver: Receiver, *bodies: str) -> None:
    """Wait until a record with each of these texts is there."""
    wanted = receiver.wait_for(lambda there: all(of(there, one) for one in bodies), LIMIT)
    assert wanted, [str(one.body)[:100] for one in receiver.logs]


def json_lines(worker: Worker) -> list[dict[str, Any]]:
    return [json.loads(line) for line in worker.log.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("setup", ["celery", "own"])
def test_records_of_a_worker_arrive_and_are_json_whoever_sets_up_logging(
    live: LiveApp, receiver: Receiver, file_broker: Broker, setup: str
) -> None:
    """What main process, task and Celery log arrives once, with ids, and no argument of a task.

    Each line of the worker's log is an object with the fields of OpenTelemetry's data model.
    """
    env = {**SENT, "TASKOBS_LOG_FORMAT": "json", "LOGGING": setup}
    worker = live.worker(file_broker, app=APP, env=env, concurrency=1)
    producer = live.producer(file_broker, app=APP, env=env)
    task_id = producer.run(f"result = app.speak.delay({SAID!r}).id")
    wait_for(receiver, "plain line", "task line", "received", "succeeded in")
    assert producer.close() == 0
    assert worker.stop() == 0
    for text in ("plain line", "task line", "succeeded in"):
        [found] = of(receiver, text)
        assert found.attributes["task_id"] == task_id
        assert found.attributes["task_name"] == f"{APP}.speak"
        assert found.resource["service.name"] == "logs"
    [run] = [one for one in receiver.spans if one.name == f"run {APP}.speak"]
    [line] = of(receiver, "task line")
    assert (line.trace_id, line.flags & 1) == (run.trace_id, 1)
    assert (line.severity, line.severity_text) == (13, "WARNING")
    assert line.attributes["rack"] == 7
    assert "data" not in of(receiver, "succeeded in")[0].attributes
    assert "log export" not in worker.log
    of_celery = [one for one in receiver.logs if one.scope.startswith("celery.")]
    assert SAID not in repr(of_celery)
    assert of(receiver, "ready.")
    written = {str(one["Body"]): one for one in json_lines(worker)}["task line"]
    assert (written["SeverityText"], written["SeverityNumber"]) == ("WARNING", 13)
    assert (written["TraceId"], written["Attributes"]["task_id"]) == (run.trace_id, task_id)
    assert written["Resource"]["service.name"] == "logs"
    assert written["InstrumentationScope"] == {"Name": APP}


def test_the_last_lines_of_a_killed_child_arrive(
    live: LiveApp, receiver: Receiver, file_broker: Broker
) -> None:
    """A child is killed in the middle of a task: the line before is there, with its trace."""
    live.worker(file_broker, app=APP, env=SENT, concurrency=1)
    producer = live.producer(file_broker, app=APP, env=SENT)
    producer.run("result = app.die.delay().id")
    wait_for(receiver, "the last words", "WorkerLostError")
    [line] = of(receiver, "the last words")
    assert line.trace_id
    assert producer.close() == 0


@pytest.mark.parametrize(("pool", "relay"), [("threads", "0"), ("gevent", "1"), ("prefork", "0")])
def test_each_line_arrives_once_on_other_pools_and_from_producers(
    live: LiveApp, receiver: Receiver, file_broker: Broker, pool: str, relay: str
) -> None:
    """On threads, greenlets, in children that are recycled without a relay, and in a script."""
    env = {**SENT, "TASKOBS_RELAY": relay}
    recycled = ["--max-tasks-per-child", "3"] if pool == "prefork" else []
    worker = live.worker(file_broker, *recycled, app=APP, env=env, pool=pool, concurrency=4)
    producer = live.producer(file_broker, app=APP, env=env)
    producer.run(
        "import logging\nids = [app.speak.delay(str(n)).id for n in range(20)]\n"
        "logging.getLogger('script').warning('from the script')\n"
        "for one in ids: app.app.AsyncResult(one).get(timeout=90)\nresult = ids"
    )
    assert producer.close() == 0
    worker.stop()
    lines = of(receiver, "task line")
    assert len(lines) == len({one.attributes["task_id"] for one in lines}) == 20
    assert len(of(receiver, "from the script")) == 1
