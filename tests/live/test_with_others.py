"""Other observers beside taskobs: none doubles, breaks or blinds another (docs/with-others.md)."""

from __future__ import annotations

import ast
import json
import re
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from tests.docs.pages import section
from tests.live.celery_process import Broker, LiveApp
from tests.live.others import (
    APP,
    ORDER,
    TASKS,
    WHOLE,
    Beside,
    assert_told_once,
    close,
    datadog_agent,
    runs,
    tree,
)
from tests.live.process import LIMIT, wait_until
from tests.live.services import HOST
from tests.live.shop import tags
from tests.live.test_web import serving
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path

    from taskobs.testing.wire import ReceivedSpan
    from tests.live import services
    from tests.live.others import DatadogAgent
    from tests.live.shop import Shop

SCOPE = "opentelemetry.instrumentation"
RUNS = Counter(["add", "calls_add", "child_span", "fail"])
"""What an order runs."""


@pytest.fixture
def beside(live: LiveApp, redis_broker: Broker, receiver: Receiver, neighbours: Path) -> Beside:
    """Starts the shop beside another observer."""
    return Beside(live, redis_broker, receiver, neighbours)


def finished(spans: Iterable[ReceivedSpan]) -> list[ReceivedSpan]:
    """Leave out what Logfire sends of each span when it begins."""
    return [one for one in spans if one.attributes.get("logfire.span_type") != "pending_span"]


@pytest.mark.neighbour("Logfire")
def test_logfire(beside: Beside, receiver: Receiver) -> None:
    """I use Logfire, and it instruments Celery: a run is one span there, and one in Jaeger."""
    with Receiver() as theirs:
        shop = beside.start("logfire", APP_THEIRS=theirs.endpoint)
        failed = shop.run(ORDER)
        close(shop)
        assert tree(finished(theirs.spans)) == WHOLE
    assert_told_once(receiver, failed)


@pytest.mark.neighbour("Langfuse and other SDKs that add span processors")
def test_langfuse(beside: Beside, receiver: Receiver) -> None:
    """Langfuse adds its processor to our provider: it has my generations, and Jaeger has all."""
    with Receiver() as theirs:
        env = {"APP_THEIRS": theirs.endpoint, "LANGFUSE_OTEL_TRACES_EXPORT_PATH": "/v1/traces"}
        shop = beside.start("langfuse", **env)
        failed = shop.run(ORDER)
        shop.call("generate.delay('a question')")
        close(shop)
        [at_langfuse] = [span for span in theirs.spans if span.name == "generation"]
    [generation] = [span for span in receiver.spans if span.name == "generation"]
    [run] = [span for span in receiver.spans if span.name == f"run {APP}.generate"]
    assert (generation.trace_id, generation.parent_id) == (run.trace_id, run.span_id)
    assert (at_langfuse.trace_id, at_langfuse.span_id) == (run.trace_id, generation.span_id)
    assert_told_once(receiver, failed)


DATADOG = {
    "DD_CELERY_DISTRIBUTED_TRACING": "true",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_TRACE_API_VERSION": "v0.4",
}


def tags_on_page() -> set[str]:
    """Read which tags of ddtrace a page translates, but for those of retries and of beat."""
    page = section(ROOT / "docs/how-to/from-ddtrace.md", "What changes in names")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    found = {tag for row in rows if "resource" not in row for tag in re.findall(r"`([^`]+)`", row)}
    assert len(found) > 10
    return found - {"celery.beat.apply_entry", "celery.retries", "celery.retry.reason"}


def sends(agent: DatadogAgent, *names: str) -> bool:
    """Wait for as many spans of each name as an order runs: ddtrace sends by its own timer."""
    return agent.wait_for(
        lambda spans: all(
            sum(span["name"] == name for span in spans) >= RUNS.total() for name in names
        )
    )


@pytest.mark.neighbour("Datadog")
def test_ddtrace(beside: Beside, receiver: Receiver) -> None:
    """I start my worker with `ddtrace-run`: a run is one span in Datadog, and one in Jaeger."""
    with datadog_agent() as agent:
        shop = beside.start(
            "nothing", under=["ddtrace-run"], **DATADOG, DD_TRACE_AGENT_URL=agent.url
        )
        failed = shop.run(ORDER)
        assert sends(agent, "celery.apply", "celery.run")
        close(shop)
    assert_told_once(receiver, failed)
    published = {span["span_id"]: span for span in agent.spans if span["name"] == "celery.apply"}
    theirs = [span for span in agent.spans if span["name"] == "celery.run"]
    assert not tags_on_page() - {
        tag for span in agent.spans for tag in span["meta"] | span["metrics"]
    }
    assert Counter(span["resource"].removeprefix(TASKS) for span in theirs) == RUNS
    assert [published.pop(run["parent_id"])["resource"] for run in theirs] == [
        run["resource"] for run in theirs
    ]
    assert not published
    assert sum(run.get("error", 0) for run in theirs) == 1
    # A worker's relay exports, and is not traced; a producer exports by itself.
    requests = [span for span in agent.spans if "/v1/traces" in span["meta"].get("http.url", "")]
    assert {span["metrics"]["process_id"] for span in requests} <= {shop.producer.program.pid}


@pytest.mark.neighbour("Datadog")
def test_ddtrace_as_the_provider(beside: Beside, receiver: Receiver) -> None:
    """I have ddtrace take OpenTelemetry's spans: those of my publishes and runs are there, once."""
    with datadog_agent() as agent:
        env = {"DD_TRACE_OTEL_ENABLED": "true", "DD_TRACE_CELERY_ENABLED": "false"}
        env |= {**DATADOG, "DD_TRACE_AGENT_URL": agent.url}
        shop = beside.start("nothing", under=["ddtrace-run"], **env)
        failed = shop.run(ORDER)
        assert sends(agent, "producer", "consumer")
        close(shop)
    published = {span["span_id"]: span for span in agent.spans if span["name"] == "producer"}
    theirs = [span for span in agent.spans if span["name"] == "consumer"]
    assert Counter(span["resource"].removeprefix(f"run {TASKS}") for span in theirs) == RUNS
    for run in theirs:
        parent = published.pop(run["parent_id"])
        assert parent["resource"].removeprefix("publish") == run["resource"].removeprefix("run")
    assert not published
    [event] = receiver.events
    assert tags(event)[semconv.TAG_TASK_ID] == failed
    assert not receiver.spans


NEW_RELIC = {
    "NEW_RELIC_DEVELOPER_MODE": "true",  # it writes to its audit log, and sends nothing
    "NEW_RELIC_LICENSE_KEY": "0" * 40,
    "NEW_RELIC_APP_NAME": "shop",
    "NEW_RELIC_STARTUP_TIMEOUT": "30",
    "NEW_RELIC_SHUTDOWN_TIMEOUT": "30",
}


def transactions(audit: Path) -> list[dict[str, Any]]:
    """Read the events of transactions from New Relic's audit log."""
    requests = [
        one for one in audit.read_text().split("\n====") if "'method': 'analytic_event_data'" in one
    ]
    sent = [ast.literal_eval(one.partition("DATA: ")[2]) for one in requests]
    return [event[0] for data in sent for event in data[2]]


@pytest.mark.neighbour("New Relic")
def test_newrelic(beside: Beside, receiver: Receiver, tmp_path: Path) -> None:
    """I start my worker with `newrelic-admin`: a run is one transaction, the failed one too."""
    audit = tmp_path / "audit.log"
    under = ["newrelic-admin", "run-program"]
    shop = beside.start("nothing", under=under, **NEW_RELIC, NEW_RELIC_AUDIT_LOG=str(audit))
    failed = shop.run(ORDER)
    close(shop)
    assert_told_once(receiver, failed)
    prefix = f"OtherTransaction/Celery/{TASKS}"
    theirs = Counter(one["name"].removeprefix(prefix) for one in transactions(audit))
    assert {name: theirs[name] for name in RUNS} == RUNS
    assert [one["name"] for one in transactions(audit) if one.get("error")] == [f"{prefix}fail"]


AUTOMATIC = {
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}


@pytest.mark.neighbour("`opentelemetry-instrument`")
def test_automatic_instrumentation(beside: Beside, receiver: Receiver) -> None:
    """I start my worker with `opentelemetry-instrument`, which instruments Celery: once each."""
    shop = beside.start("nothing", under=["opentelemetry-instrument"], **AUTOMATIC)
    failed = shop.run(ORDER)
    close(shop)
    assert_told_once(receiver, failed)


@pytest.mark.neighbour("OpenTelemetry's CeleryInstrumentor")
def test_stock_instrumentation(beside: Beside, receiver: Receiver) -> None:
    """I leave the stock instrumentation in, at import and in pool children: once each."""
    shop = beside.start("stock")
    failed = shop.run(ORDER)
    close(shop)
    assert_told_once(receiver, failed)


@pytest.mark.neighbour("Sentry's CeleryIntegration")
def test_celery_integration(beside: Beside, receiver: Receiver) -> None:
    """I leave Sentry's integration in, and its tracing: one event, no transaction of a task."""
    del beside.live.env["SENTRY_DSN"]
    shop = beside.start("sentry", APP_SENTRY_DSN=receiver.dsn)
    failed = shop.run(ORDER)
    close(shop)
    assert_told_once(receiver, failed)
    assert not [item for item in receiver.items if item.kind == "transaction"]


@pytest.mark.neighbour("structlog, loguru and django-structlog")
def test_django_structlog(beside: Beside, receiver: Receiver) -> None:
    """I log with django-structlog: its line of a failure has the ids, and there is one event."""
    shop = beside.start("django_structlog")
    failed = shop.run(ORDER)
    close(shop)
    assert_told_once(receiver, failed)
    [run] = [run for name, run in runs(receiver.spans) if name == "fail"]
    [line] = [line for line in shop.worker.log.splitlines() if '"task_failed"' in line]
    assert f'"trace_id": "{run.trace_id}"' in line
    assert f'"task_id": "{failed}"' in line


@pytest.mark.neighbour("Flower and other consumers of events")
def test_flower(beside: Beside, redis_broker: Broker, receiver: Receiver) -> None:
    """Flower watches my worker: it knows each task, and makes no span and no event itself."""
    command = ("celery", "-A", APP, "flower", f"--address={HOST}", "--port={port}")
    shop = beside.start("nothing", "-E")
    with serving(beside.live, redis_broker, command, FLOWER_UNAUTHENTICATED_API="1") as (_, port):

        def ask(what: str) -> dict[str, Any]:
            with urllib.request.urlopen(f"http://{HOST}:{port}/api/{what}") as answer:  # our own
                found: dict[str, Any] = json.load(answer)
                return found

        def states() -> Counter[str]:
            return Counter(task["state"] for task in ask("tasks").values())

        # It serves pages before it hears events: a heartbeat shows that it does.
        assert wait_until(lambda: bool(ask("workers?status=true")), timeout=LIMIT)
        failed = shop.run(ORDER)
        assert wait_until(lambda: states() == {"SUCCESS": 3, "FAILURE": 1}, timeout=LIMIT)
    close(shop)
    assert_told_once(receiver, failed)
    assert {span.scope for span in receiver.spans} == {
        "opentelemetry.instrumentation.celery",
        "shop",
    }


# Libraries that a task uses, each with OpenTelemetry's instrumentation: one worker for all.


@pytest.fixture(scope="module")
def instrumented(
    redis_server: services.Redis, tmp_path_factory: pytest.TempPathFactory, neighbours: Path
) -> Generator[Shop]:
    """A worker whose libraries are instrumented."""
    url, folder = redis_server.url(), tmp_path_factory.mktemp("instrumented")
    with Receiver() as receiver, LiveApp(folder, receiver.endpoint, receiver.dsn) as live:
        broker = Broker("redis", url, url)
        yield Beside(live, broker, receiver, neighbours).start("instrumentors")


def inside(shop: Shop, publish: str, scope: str) -> Counter[str]:
    """Run a task, and count the spans right below its run, of a scope that begins like this."""
    task_id = shop.call(publish)
    _, run = shop.spans(task_id, 2)
    parent = (run.trace_id, run.span_id)

    def found() -> list[str]:
        spans = [span for span in shop.receiver.spans if span.scope.startswith(scope)]
        return [span.name for span in spans if (span.trace_id, span.parent_id) == parent]

    assert shop.receiver.wait_for(lambda _: bool(found()), LIMIT)
    return Counter(found())


@pytest.mark.neighbour("Redis")
def test_redis(instrumented: Shop) -> None:
    """My task writes to Redis, which is my broker, too: that is a span in its run."""
    assert inside(instrumented, "ask_redis.delay()", f"{SCOPE}.redis")["SET"] == 1


@pytest.mark.neighbour("RabbitMQ")
def test_pika(instrumented: Shop, rabbitmq_server: services.RabbitMQ) -> None:
    """My task publishes with pika: that is a span in its run."""
    publish = f"ask_rabbitmq.delay({rabbitmq_server.url()!r})"
    assert inside(instrumented, publish, f"{SCOPE}.pika") == {"a task's own send": 1}


@pytest.mark.neighbour("Threads")
def test_threads(instrumented: Shop) -> None:
    """My task starts a thread: the spans that it makes are in the run."""
    assert inside(instrumented, "in_a_thread.delay()", "shop") == {"part": 1}


@pytest.mark.neighbour("HTTP clients")
def test_requests(instrumented: Shop) -> None:
    """My task asks a web server: a span in its run. What taskobs itself sends makes none."""
    with Receiver() as asked:
        publish = f"ask_web.delay({asked.endpoint!r})"
        assert inside(instrumented, publish, f"{SCOPE}.requests") == {"GET": 1}
    instrumented.call("fail.delay()")
    # The producer's own events and spans have no relay.
    instrumented.run("app.fail.apply()\napp.session.flush(30)")
    assert instrumented.receiver.wait_for(lambda received: len(received.events) == 2, LIMIT)
    assert not [span for span in instrumented.receiver.spans if span.name == "POST"]


@pytest.mark.neighbour("SQL drivers")
def test_databases(instrumented: Shop) -> None:
    """My task asks a database: a span in its run for each statement, of driver or SQLAlchemy."""
    assert inside(instrumented, "ask_driver.delay()", f"{SCOPE}.sqlite3") == {"SELECT": 1}
    statements = inside(instrumented, "ask_sqlalchemy.delay()", f"{SCOPE}.sqlalchemy")
    assert statements["SELECT"] == 1
