"""What an app has beside taskobs: instrumentations of libraries, other exporters, other metrics."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from tests.live.process import LIMIT, wait_until
from tests.live.services import HOST, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.live.celery_process import Broker, LiveApp

INSTRUMENTED = "tests.live.apps.instrumented"
REDIS = "opentelemetry.instrumentation.redis"
LOOK_UPS = f"""
names = ["looks_up", "looks_up_late"]
sent = [app.app.send_task(f"{INSTRUMENTED}.{{name}}", ("stock",)) for name in names]
sent += [app.calls_add.delay(1, 2), app.fail.delay(), app.retry_then_ok.delay(1)]
for one in sent: one.get(timeout=90, propagate=False)
"""


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_celerys_own_commands_make_no_traces(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, tmp_path: Path, pool: str
) -> None:
    """I instrument Redis, my broker: only what my tasks and their publishes do makes spans."""
    instrumentation = pytest.importorskip(REDIS)
    if not hasattr(instrumentation, "is_instrumentation_enabled"):
        pytest.skip("this release of the instrumentation of redis can't be suppressed")
    worker = live.worker(
        redis_broker, "-E", "--heartbeat-interval", "1", pool=pool, app=INSTRUMENTED, mingle=True
    )
    producer = live.producer(redis_broker)
    if pool != "solo":  # which is busy while it runs a task
        assert producer.run("result = app.app.control.ping(timeout=30, limit=1)")
    producer.run(LOOK_UPS)
    # Two tasks end while the worker stops: what Celery does about them comes at its very end.
    names = ["holds_late", "holds_late"] if pool != "solo" else ["holds_late"]
    for name in names:
        task = f"{INSTRUMENTED}.{name}"
        held = producer.run(f"result = app.app.send_task({task!r}, ({str(tmp_path)!r},)).id")
        assert wait_until((tmp_path / held).exists, timeout=LIMIT)
    assert producer.close() == 0
    worker.signal("TERM")
    worker.wait_log("Warm shutdown")
    (tmp_path / "go").touch()
    assert worker.wait() == 0
    ours = {span.span_id: span for span in receiver.spans if span.kind in {"producer", "consumer"}}
    commands = [span for span in receiver.spans if span.scope == REDIS]
    stray = [span for span in commands if span.parent_id not in ours]
    assert not stray, [(span.name, span.attributes, span.start_ns) for span in stray]
    gets = Counter(
        str(ours[span.parent_id].attributes[semconv.CELERY_TASK_NAME]).rpartition(".")[2]
        for span in commands
        if (span.name, ours[span.parent_id].kind) == ("GET", "consumer")
    )
    # Before it stores a result, Celery asks for the one that is there: once in each run.
    results = {"holds_late": len(names), "calls_add": 1, "add": 1, "fail": 1, "retry_then_ok": 2}
    assert gets == {**results, "looks_up": 2, "looks_up_late": 2}
    published = {span.parent_id for span in commands if ours[span.parent_id].kind == "producer"}
    assert len(published) == 2, "a task that a task calls, and a retry"


NEIGHBOURS = "tests.live.apps.neighbours"
ORDERS = 6
PLACE = f"""
sent = [app.app.send_task("{NEIGHBOURS}.order") for _ in range({ORDERS})]
for one in sent: one.get(timeout=90)
"""


def counted(file: Path) -> dict[str, int]:
    """Give how often each instrument was used, by what each process exported last."""
    last: dict[tuple[str, int], int] = {}
    for line in file.read_text().splitlines():
        exported = json.loads(line)
        for resource in exported["resource_metrics"]:
            for scope in resource["scope_metrics"]:
                for metric in scope["metrics"]:
                    points = metric["data"]["data_points"]
                    number = sum(point.get("count", point.get("value")) for point in points)
                    last[metric["name"], exported["pid"]] = number
    found: Counter[str] = Counter()
    for (name, _), number in last.items():
        found[name] += number
    return dict(found)


@pytest.mark.parametrize(
    "how",
    [
        *("prefork relay warm", "prefork relay recycled", "prefork direct warm"),
        *("prefork direct dead", "threads relay warm"),
        *("gevent relay warm",),
    ],
)
def test_other_exporters_get_all(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, how: str
) -> None:
    """I add a processor after `init()` and have metrics of my own: both are whole at the end."""
    pool, pipeline, stop = how.split()
    metrics = live.folder / "metrics"
    with Receiver() as second:
        env = {"APP_SECOND": second.endpoint, "APP_METRICS": str(metrics)}
        env["TASKOBS_RELAY"] = "1" if pipeline == "relay" else "0"
        if stop == "dead":  # of ours; the time that a child has is short
            env |= {"TASKOBS_SHUTDOWN_TIMEOUT": "3", "OTEL_EXPORTER_OTLP_TIMEOUT": "60"}
            receiver.behave(hang=True)
        limit = ("--max-tasks-per-child", "1") if stop == "recycled" else ()
        worker = live.worker(redis_broker, *limit, pool=pool, app=NEIGHBOURS, env=env)
        producer = live.producer(redis_broker)
        producer.run(PLACE)
        worker.stop()
        assert Counter(span.name for span in second.spans) == {
            f"run {NEIGHBOURS}.order": ORDERS,
            "ordering": ORDERS,
        }
    assert counted(metrics) == {"orders": ORDERS, semconv.STOCK_HISTOGRAM: ORDERS}


THREADED = "tests.live.apps.threaded"
LINE = re.compile(r"^IDS ([\w-]*) (\w*) in (.*)$", re.MULTILINE)
FORMAT = {"worker_log_format": "IDS %(task_id)s %(trace_id)s %(message)s"}


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_threads_and_other_loggers_have_the_ids_of_the_run(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, pool: str
) -> None:
    """My task logs in threads and by loggers of other kinds, with a DSN and `threading` traced."""
    pytest.importorskip("opentelemetry.instrumentation.threading")
    worker = live.worker(
        redis_broker, pool=pool, app=THREADED, env={"APP_CONFIG": json.dumps(FORMAT)}
    )
    source = f"""
sent = app.app.send_task("{THREADED}.logs_everywhere")
sent.get(timeout=90)
result = sent.id
"""
    task_id = live.producer(redis_broker).run(source)
    worker.stop()
    spans = {span.name: span for span in receiver.spans}
    run = spans[f"run {THREADED}.logs_everywhere"]
    for where in ("a thread", "an executor"):
        assert (spans[where].trace_id, spans[where].parent_id) == (run.trace_id, run.span_id)
    lines = {where: ids for *ids, where in LINE.findall(worker.log)}
    for where in ("the task", "a thread", "an executor", "a logger of its own kind", "a record"):
        assert lines[where] == [task_id, run.trace_id]
    [structured] = re.findall(r"\{.*in structlog.*\}", worker.log)
    fields = json.loads(structured)
    assert (fields["task_id"], fields["trace_id"]) == (task_id, run.trace_id)
    assert "Logging error" not in worker.log


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_an_outage_is_one_line_without_a_relay(
    live: LiveApp, redis_broker: Broker, pool: str
) -> None:
    """Sentry is away and I have no relay: one line says so, whatever fails meanwhile."""
    del live.env["OTEL_EXPORTER_OTLP_ENDPOINT"]
    live.env["SENTRY_DSN"] = f"http://key@{HOST}:{free_port()}/1"
    env = {"TASKOBS_RELAY": "0"}
    worker = live.worker(redis_broker, pool=pool, concurrency=1, env=env)
    fail = "[app.fail.delay() for _ in range(5)][-1].get(timeout=90, propagate=False)"
    live.producer(redis_broker).run(fail)
    worker.stop()
    said = [line for line in worker.log.splitlines() if "WARNING" in line and "Sentry" in line]
    assert ["failed, retrying" in line for line in said] == [True]
    assert "Retrying" not in worker.log
