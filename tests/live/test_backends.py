"""What the main rows of the outcome table look like in Jaeger, and in a server that is a Sentry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from taskobs import semconv
from tests.live.celery_process import SHOP, Broker, LiveApp
from tests.live.process import LIMIT, wait_until
from tests.live.shop import QUICK

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.live import services
    from tests.live.celery_process import Producer

Span = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """A shop that reports to real backends, and those."""

    producer: Producer
    jaeger: services.Jaeger
    project: services.BugsinkProject

    def run(self, call: str) -> str:
        """Publish, wait for the end, and give the id of the task."""
        source = f"sent = app.{call}\nsent.get(timeout=90, propagate=False)\nresult = sent.id"
        return str(self.producer.run(source))

    def search(self, spans: int, **tags: str) -> list[Span]:
        """Search as one does on Jaeger's front page: by service and tags; oldest first."""
        found: list[Span] = []

        def arrived() -> bool:
            traces = self.jaeger.ask("/traces", service="shop", tags=json.dumps(tags))
            found[:] = [span for trace in traces for span in trace["spans"]]
            return len(found) >= spans

        assert wait_until(arrived, timeout=LIMIT, tick=0.1), found
        assert len(found) == spans
        assert {span["traceID"] for span in found} == {found[0]["traceID"]}
        return sorted(found, key=lambda span: int(span["startTime"]))

    def task(self, task_id: str, spans: int) -> list[Span]:
        """Search for the trace of a task."""
        return self.search(spans, **{semconv.CELERY_TASK_ID: task_id})

    def event(self, task_id: str, number: int) -> dict[str, Any]:
        """Give the one event of a task; ``number`` is how many the project has by then."""
        events = self.project.events(number)
        [event] = [e for e in events if e["tags"][semconv.TAG_TASK_ID] == task_id]
        return event


@pytest.fixture(scope="module", params=["redis-prefork", "rabbitmq-solo"])
def seen(
    request: pytest.FixtureRequest,
    redis_server: services.Redis,
    jaeger: services.Jaeger,
    bugsink: services.Bugsink,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Seen]:
    """A worker and a producer that report to Jaeger and Bugsink."""
    kind, _, pool = str(request.param).partition("-")
    url = redis_server.url()
    if kind == "rabbitmq":
        rabbitmq: services.RabbitMQ = request.getfixturevalue("rabbitmq_server")
        url = rabbitmq.url()
    broker = Broker(kind, url, redis_server.url())
    project = bugsink.project()
    with LiveApp(tmp_path_factory.mktemp("seen"), jaeger.endpoint, project.dsn) as live:
        live.worker(broker, pool=pool, env=QUICK)
        yield Seen(live.producer(broker, env=QUICK), jaeger, project)


def attributes(span: Span) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def parent(span: Span) -> str:
    """Give the id of a span's parent; empty for a root."""
    references = [r for r in span["references"] if r["refType"] == "CHILD_OF"]
    return str(references[0]["spanID"]) if references else ""


def is_red(span: Span) -> bool:
    """Tell whether Jaeger marks a span as an error."""
    return attributes(span).get("error") is True


def test_success(seen: Seen) -> None:
    """I find a task's trace by its id: a publish, and the run below it, none of them red."""
    publish, run = seen.task(seen.run("add.delay(1, 2)"), 2)
    assert publish["operationName"] == f"publish {SHOP}.add"
    assert run["operationName"] == f"run {SHOP}.add"
    assert (parent(publish), parent(run)) == ("", publish["spanID"])
    assert attributes(publish)["span.kind"] == "producer"
    assert attributes(run)["span.kind"] == "consumer"
    assert not is_red(publish)
    assert not is_red(run)


def test_exception(seen: Seen) -> None:
    """I go from a red run in Jaeger to its error in Sentry, and back."""
    before = len(seen.project.events(0))
    task_id = seen.run("fail.delay()")
    publish, run = seen.task(task_id, 2)
    assert (is_red(publish), is_red(run)) == (False, True)
    [log] = run["logs"]
    noted = {field["key"]: field["value"] for field in log["fields"]}
    assert (noted["event"], noted["exception.type"]) == ("exception", "ValueError")
    event = seen.event(task_id, before + 1)
    assert event["event_id"] == attributes(run)[semconv.SENTRY_EVENT_ID]
    assert event["contexts"]["trace"]["trace_id"] == run["traceID"]
    assert event["contexts"]["trace"]["span_id"] == run["spanID"]
    assert event["tags"][semconv.TAG_TASK_NAME] == event["transaction"] == f"{SHOP}.fail"
    found = {
        span["spanID"] for span in seen.search(2, **{semconv.SENTRY_EVENT_ID: event["event_id"]})
    }
    assert run["spanID"] in found


def test_retry_then_success(seen: Seen) -> None:
    """I see three attempts beside one another, each with a reference to the one before."""
    spans = seen.task(seen.run("retry_then_ok.delay(2)"), 6)
    publishes, runs = spans[::2], spans[1::2]
    first = publishes[0]["spanID"]
    assert [parent(span) for span in spans] == ["", *[first] * 5]
    assert [attributes(run)[semconv.CELERY_ATTEMPT] for run in runs] == [1, 2, 3]
    outcomes = [attributes(run)[semconv.CELERY_OUTCOME] for run in runs]
    assert outcomes == ["retried", "retried", "succeeded"]
    assert not any(map(is_red, spans))
    for before, run in pairwise(runs):
        assert before["spanID"] in {reference["spanID"] for reference in run["references"]}


def test_chain(seen: Seen) -> None:
    """I see a chain of three as one trace, in which each task hangs on the one before."""
    spans = seen.task(seen.run("make_chain().apply_async()"), 6)
    assert parent(spans[0]) == ""
    for before, span in pairwise(spans):
        assert parent(span) == before["spanID"]
    root = attributes(spans[0])[semconv.MESSAGING_MESSAGE_ID]
    assert {attributes(span)[semconv.CELERY_ROOT_ID] for span in spans} == {root}
    assert not any(map(is_red, spans))


def test_only_failures_are_events(seen: Seen) -> None:
    """I look through Sentry's issues, and there are none but of tasks that failed."""
    before = len(seen.project.events(0))
    seen.run("retry_then_ok.delay(1)")
    seen.run("expected.delay()")
    failed = {seen.run("fail.delay()"), seen.run("exhausted.delay()")}
    events = seen.project.events(before + 2)[before:]
    assert {event["tags"][semconv.TAG_TASK_ID] for event in events} == failed
    assert [event["tags"][semconv.TAG_OUTCOME] for event in events] == ["failed", "failed"]
