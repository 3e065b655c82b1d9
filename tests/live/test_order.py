"""`init()` before, between or after what the app sets up: the same is recorded each time."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from tests.live.apps.factory.place import POSITIONS
from tests.live.process import LIMIT
from tests.live.services import HOST
from tests.live.shop import QUICK, tags, trace_of
from tests.live.test_schedule import REDBEAT, TICKING
from tests.live.test_web import CALLED, TRACE, get, publishes, serving

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from taskobs.testing.wire import ReceivedItem, ReceivedSpan
    from tests.live.celery_process import Broker, LiveApp

APPS = "tests.live.apps"
FACTORY = f"{APPS}.factory.main"
LATE = f"{APPS}.late_setup"
FLASK = ("flask", "--app", f"{FACTORY}:web", "run", "-p", "{port}")
REQUEST = "?"
"""The request of the web process, whose trace Sentry has; nothing there makes a span of it."""
ORDER = Counter(
    {
        ("publish add", REQUEST, "unset", "", ()): 1,
        ("publish fail", REQUEST, "unset", "", ()): 1,
        ("publish again", REQUEST, "unset", "", ()): 1,
        ("publish again", "publish again", "unset", "", ()): 1,
        ("publish celery.chord", REQUEST, "unset", "", ()): 1,
        ("publish add", "publish celery.chord", "unset", "", ()): 2,
        ("publish total", "run add", "unset", "", ()): 1,
        ("run add", "publish add", "unset", "succeeded", ()): 3,
        ("adding", "run add", "unset", "", ()): 3,
        ("run fail", "publish fail", "error", "failed", ()): 1,
        ("run again", "publish again", "unset", "retried", ()): 1,
        ("run again", "publish again", "unset", "succeeded", ("publish", "retry_of")): 1,
        ("run total", "publish total", "unset", "succeeded", ("chord_header", "chord_header")): 1,
    }
)


def nothing_of_ours(live: LiveApp) -> None:
    """Configure nothing in the environment."""
    del live.env["OTEL_EXPORTER_OTLP_ENDPOINT"], live.env["SENTRY_DSN"]


def shape(spans: Iterable[ReceivedSpan]) -> Counter[tuple[str, str, str, str, tuple[str, ...]]]:
    """Count spans by name, parent's name, status, outcome and links."""
    spans = list(spans)
    names = {(span.trace_id, span.span_id): span.name for span in spans}
    return Counter(
        (
            span.name,
            names.get((span.trace_id, span.parent_id), span.parent_id and "?"),
            span.status,
            str(span.attributes.get(semconv.CELERY_OUTCOME, "")),
            tuple(sorted(str(link.attributes[semconv.LINK_KIND]) for link in span.links)),
        )
        for span in spans
    )


def ticks(spans: Iterable[ReceivedSpan]) -> list[ReceivedSpan]:
    """Give the spans of what beat has published, that are whole."""
    return [span for span in spans if span.name.endswith(" tick")]


def are_whole(spans: Sequence[ReceivedSpan]) -> bool:
    """Tell whether each run has its publish, which is the root of its trace."""
    runs = [span for span in spans if span.kind == "consumer"]
    sent = {(span.trace_id, span.span_id) for span in spans if not span.parent_id}
    return bool(runs) and {(run.trace_id, run.parent_id) for run in runs} <= sent


def said(log: str) -> list[str]:
    """Give what a process said of where its telemetry goes, without the time."""
    return [line.partition("taskobs: ")[2] for line in log.splitlines() if "taskobs: " in line]


@pytest.mark.parametrize("position", POSITIONS)
def test_a_flask_factory(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, position: str
) -> None:
    """`init()` stands anywhere in my factory: the same spans, events, links."""
    nothing_of_ours(live)
    live.env |= {
        "APP_INIT_AT": position,
        "APP_SENTRY_DSN": receiver.dsn,
        "APP_OTLP": receiver.endpoint,
        **QUICK,
    }
    worker = live.worker(redis_broker, app=FACTORY)
    beat = live.beat(redis_broker, app=FACTORY)
    with serving(live, redis_broker, FLASK) as (web, port):
        assert get(port, "order") == "done"
        assert receiver.wait_for(lambda r: len(ticks(r.spans)) >= 2, LIMIT)
        web.stop("INT")
    beat.stop()
    worker.stop()
    of_beat = ticks(receiver.spans)
    assert are_whole(of_beat)
    assert shape(span for span in receiver.spans if span not in of_beat) == ORDER
    assert {span.resource["service.name"] for span in receiver.spans} == {"the app's own"}
    [event] = [one for one in receiver.events if REDBEAT not in json.dumps(one.data)]
    [failed] = [span for span in receiver.spans if span.name == "run fail"]
    assert tags(event)[semconv.TAG_TASK] == "fail"
    assert trace_of(event) == (failed.trace_id, failed.span_id)
    assert failed.attributes[semconv.SENTRY_EVENT_ID] == event.event_id
    for program in (worker, beat):
        [where] = [line for line in said(program.log) if "traces to" in line]
        assert where.startswith("traces to the app's TracerProvider, errors to http://127.0.0.1:")


def failed_tasks(receiver: Receiver) -> Counter[str]:
    """Count the events of each task's id; those of no task are counted under theirs."""
    return Counter(str(tags(event).get(semconv.TAG_TASK_ID)) for event in receiver.events)


FAIL = "sent = app.fail.delay(); sent.get(timeout=90, propagate=False); result = sent.id"
DIE = "sent = app.die.delay(); sent.get(timeout=90, propagate=False); result = sent.id"


@pytest.mark.parametrize("signal", ["worker_process_init", "task_prerun", "worker_ready"])
def test_sentry_in_a_receiver_with_prefork(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, signal: str
) -> None:
    """I initialise Sentry in children alone, or after they are forked: all failures are told."""
    nothing_of_ours(live)
    env = {"APP_SENTRY_IN": signal, "APP_SENTRY_DSN": receiver.dsn}
    worker = live.worker(redis_broker, app=LATE, env=env)
    producer = live.producer(redis_broker)
    ids = [producer.run(FAIL) for _ in range(3)]
    # These children were forked before there was anything to report to, so each sends its own
    # events from a thread of Sentry's, which a kill of the child would end.
    assert receiver.wait_for(lambda r: len(r.events) >= len(ids), LIMIT), worker.tail()
    ids += [producer.run(DIE) for _ in range(2)]
    assert receiver.wait_for(lambda r: len(r.events) >= len(ids), LIMIT), worker.tail()
    worker.stop()
    assert failed_tasks(receiver) == Counter(ids)
    queues = {tags(event).get(semconv.TAG_QUEUE) for event in receiver.events}
    assert queues == {"celery"}


@pytest.mark.parametrize("pool", ["threads", "gevent", "solo"])
@pytest.mark.parametrize("signal", ["task_prerun", "worker_ready"])
def test_sentry_in_a_receiver_of_an_inline_worker(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, signal: str, pool: str
) -> None:
    """I initialise Sentry when my worker of threads or greenlets runs already: all is told."""
    nothing_of_ours(live)
    env = {"APP_SENTRY_IN": signal, "APP_SENTRY_DSN": receiver.dsn}
    worker = live.worker(redis_broker, app=LATE, env=env, pool=pool)
    producer = live.producer(redis_broker)
    ids = [producer.run(source) for source in (FAIL, FAIL)]
    assert receiver.wait_for(lambda r: len(r.events) >= len(ids), LIMIT), worker.tail()
    worker.stop()
    assert failed_tasks(receiver) == Counter(ids)


ADD = "result = app.child_span.delay('inner').get(timeout=90)"


@pytest.mark.parametrize(
    "where",
    [
        "worker_init prefork",
        "worker_init prefork configured",
        "celeryd_after_setup prefork configured",
        "worker_process_init prefork",
        "worker_process_init prefork configured",
        "task_prerun prefork",
        "task_prerun threads",
        "worker_ready gevent",
        "worker_ready gevent configured",
    ],
)
def test_a_provider_in_a_receiver(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, where: str
) -> None:
    """I set my provider in a receiver of my worker's: each run has its span there, once."""
    signal, pool, *configured = where.split()
    with Receiver() as mine:
        nothing_of_ours(live)
        if configured:
            live.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.endpoint
        env = {"APP_OTEL_IN": signal, "APP_OTLP": mine.endpoint}
        worker = live.worker(redis_broker, app=LATE, env=env, pool=pool)
        producer = live.producer(redis_broker)
        for _ in range(4):
            producer.run(ADD)
        worker.stop()
        names = Counter(span.name for span in mine.spans)
        assert names == {f"run {live.task('child_span')}": 4, "inner": 4}
        parents = {span.span_id for span in mine.spans if span.kind == "consumer"}
        assert {span.parent_id for span in mine.spans if span.name == "inner"} == parents
    assert not [span for span in receiver.spans if span.kind == "consumer"]


@pytest.mark.parametrize(
    ("signal", "pool"),
    [
        ("celeryd_init", "prefork"),
        ("worker_init", "prefork"),
        ("worker_process_init", "prefork"),
        ("task_prerun", "prefork"),
        ("worker_ready", "threads"),
    ],
)
def test_init_in_a_receiver(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, signal: str, pool: str
) -> None:
    """I call `init()` itself in a receiver of my worker's: each run is seen, the first one too."""
    worker = live.worker(redis_broker, app=LATE, env={"APP_INIT_IN": signal}, pool=pool)
    producer = live.producer(redis_broker)
    ids = [producer.run(FAIL) for _ in range(3)]
    assert producer.close() == 0
    worker.stop()
    assert failed_tasks(receiver) == Counter(ids)
    runs = [span for span in receiver.spans if span.kind == "consumer"]
    assert len(runs) == len(ids)
    sent = {span.span_id for span in receiver.spans if span.kind == "producer"}
    assert {run.parent_id for run in runs} == sent


def test_a_provider_of_mine_wins(live: LiveApp, receiver: Receiver, redis_broker: Broker) -> None:
    """I have an endpoint in the environment and set a provider after `init()`: mine applies."""
    with Receiver() as mine:
        env = {"APP_INIT_AT": "before all else", "APP_OTLP": mine.endpoint}
        live.env |= {**env, "APP_SENTRY_DSN": receiver.dsn, **QUICK}
        worker = live.worker(redis_broker, app=FACTORY)
        with serving(live, redis_broker, FLASK) as (web, port):
            assert get(port, "order") == "done"
            web.stop("INT")
            assert "not allowed" not in web.log
        worker.stop()
        assert shape(mine.spans) == ORDER
        assert {span.resource["service.name"] for span in mine.spans} == {"the app's own"}
    assert not receiver.spans
    assert "not allowed" not in worker.log


def is_check_in(item: ReceivedItem) -> bool:
    """Tell check-ins of Sentry's."""
    return item.kind == "check_in"


CHECK_INS = {"TASKOBS_CRONS": "1", "APP_BEAT": json.dumps({"often": {**TICKING, "schedule": 60}})}


def test_check_ins_with_sentry_in_a_receiver_of_beat(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """I initialise Sentry in a receiver of `beat_init`: check-ins are sent, and none warns."""
    nothing_of_ours(live)
    overdue = {**TICKING, "schedule": 60, "last_run_at": "2020-01-01T00:00:00+00:00"}
    env = {**CHECK_INS, "APP_BEAT": json.dumps({"often": overdue})}
    env |= {"APP_SENTRY_IN": "beat_init", "APP_SENTRY_DSN": receiver.dsn}
    beat = live.beat(redis_broker, app=LATE, env=env)
    assert receiver.wait_for(lambda r: any(map(is_check_in, r.items)), LIMIT), beat.tail()
    beat.stop()
    assert "no check-ins" not in beat.log


def test_check_ins_without_sentry_are_warned_of(live: LiveApp, redis_broker: Broker) -> None:
    """I ask for check-ins and forget Sentry: beat tells me at its start."""
    nothing_of_ours(live)
    beat = live.beat(redis_broker, env=CHECK_INS)
    beat.wait_log("no check-ins")
    beat.stop()
    [line] = [line for line in beat.log.splitlines() if "no check-ins" in line]
    assert "WARNING" in line


def test_nothing_configured_is_said_once(live: LiveApp, redis_broker: Broker) -> None:
    """I configure nothing: worker and beat say so once, where I see it."""
    nothing_of_ours(live)
    worker, beat = live.worker(redis_broker), live.beat(redis_broker)
    beat.wait_log("nothing is configured")
    live.producer(redis_broker).run("result = app.add.delay(1, 2).get(timeout=90)")
    beat.stop()
    worker.stop()
    for program in (worker, beat):
        [line] = said(program.log)
        assert line.startswith("nothing is configured")
    assert "INFO" in next(line for line in worker.log.splitlines() if "taskobs: " in line)


def test_half_configured_is_a_warning(live: LiveApp, redis_broker: Broker) -> None:
    """I name my service and forget where traces go: a worker that logs warnings alone says so."""
    nothing_of_ours(live)
    worker = live.worker(
        redis_broker, "-l", "WARNING", env={"OTEL_SERVICE_NAME": "shop"}, ready=False
    )
    worker.wait_log("taskobs: OTEL_SERVICE_NAME is set, but nothing is recorded")
    worker.stop()


def test_where_telemetry_goes_is_said_once(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """I look at the start of my worker's log and see where all of it goes, without my key."""
    worker = live.worker(redis_broker)
    live.producer(redis_broker).run("result = app.add.delay(1, 2).get(timeout=90)")
    worker.stop()
    [line] = said(worker.log)
    host = receiver.endpoint.partition("://")[2]
    assert line == (
        f"traces to http://{host}/v1/traces, errors to http://{host}/1, "
        f"metrics to http://{host}/v1/metrics"
    )


def test_django_with_sentry_in_its_settings(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """My settings initialise Sentry, long after `init()`: failures are told, and lost runs."""
    nothing_of_ours(live)
    live.env["APP_SENTRY_DSN"] = receiver.dsn
    worker = live.worker(redis_broker, app=f"{APPS}.django_site")
    producer = live.producer(redis_broker, app=f"{APPS}.django_site.tasks")
    ids = [producer.run(FAIL) for _ in range(2)]
    assert receiver.wait_for(lambda r: len(r.events) >= len(ids), LIMIT), worker.tail()
    worker.stop()
    assert failed_tasks(receiver) == Counter(ids)
    [line] = said(worker.log)
    assert line.startswith("traces off, errors to http://127.0.0.1:")


@pytest.mark.parametrize("moment", ["at the start", "at the first request"])
def test_fastapi_that_sets_telemetry_up_late(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, moment: str
) -> None:
    """My web app sets its provider when it starts, or later: its publishes hang on requests."""
    nothing_of_ours(live)
    env = {"APP_OTLP": receiver.endpoint, "APP_SENTRY_DSN": receiver.dsn, "APP_SET_UP": moment}
    server = ("uvicorn", f"{APPS}.late_fastapi:web", "--host", HOST, "--port", "{port}")
    with serving(live, redis_broker, server, **env) as (web, port):
        published = [get(port, "buy", CALLED) for _ in range(2)]
        web.stop("TERM")
    sent = {span.attributes[semconv.MESSAGING_MESSAGE_ID]: span for span in publishes(receiver)}
    requests = {span.span_id for span in receiver.spans if span.scope == "web"}
    assert set(sent) == set(published)
    assert {span.parent_id for span in sent.values()} == requests
    assert {span.trace_id for span in receiver.spans} == {TRACE}
