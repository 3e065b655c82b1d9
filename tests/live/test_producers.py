"""The outcome table: what a process sees that only publishes, or runs its tasks eagerly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from taskobs import semconv
from tests.live import services
from tests.live.celery_process import SHOP, Broker
from tests.live.process import LIMIT
from tests.live.services import HOST, free_port
from tests.live.shop import QUICK, tags, trace_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedSpan
    from tests.live.celery_process import LiveApp

MEMORY = Broker("memory", "memory://", "cache+memory://")
REFUSED = """
from opentelemetry import trace
failures = []
for _ in range(2):
    try:
        app.add.delay(1, 2)
    except Exception as error:
        failures.append(f"{type(error).__module__}.{type(error).__qualname__}")
    assert not trace.get_current_span().get_span_context().is_valid
result = failures
"""


def refused(receiver: Receiver, number: int) -> list[ReceivedSpan]:
    """Wait for the spans of refused publishes and hold them to what such a span says."""
    assert receiver.wait_for(lambda r: len(r.spans) >= number, LIMIT)
    for span in receiver.spans:
        assert (span.name, span.kind) == (f"publish {SHOP}.add", "producer")
        assert (span.status, span.parent_id) == ("error", "")
        [noted] = span.events
        assert noted.name == "exception"
        assert noted.attributes["exception.type"] == "kombu.exceptions.OperationalError"
        assert span.attributes[semconv.ERROR_TYPE] == "kombu.exceptions.OperationalError"
    return list(receiver.spans)


@pytest.mark.row("broker refuses")
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_broker_that_refuses(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, scheme: str
) -> None:
    """My broker is away: I get my own error, a span that says so, and each try has its trace."""
    away = Broker(scheme, f"{scheme}://{HOST}:{free_port()}/", redis_broker.backend)
    producer = live.producer(away)
    assert producer.run(REFUSED) == ["kombu.exceptions.OperationalError"] * 2
    assert producer.close() == 0
    first, second = refused(receiver, 2)
    assert first.trace_id != second.trace_id
    assert receiver.events == ()


def test_broker_that_goes_away(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, tmp_path: Path
) -> None:
    """My broker stops and comes back: what I publish then is in a trace of its own."""
    folder = tmp_path / "own-redis"
    folder.mkdir()
    with services.redis(folder) as server:
        producer = live.producer(Broker("redis", server.url(), redis_broker.backend), env=QUICK)
        producer.run("app.add.delay(1, 2)")
        assert receiver.wait_for(lambda r: len(r.spans) == 1, LIMIT)
        [before] = receiver.spans
        assert before.status == "unset"
        receiver.clear()
    assert len(producer.run(REFUSED)) == 2
    assert len({span.trace_id for span in [before, *refused(receiver, 2)]}) == 3
    receiver.clear()
    producer.run(
        f"with app.app.connection_for_write('{redis_broker.url}') as elsewhere:\n"
        "    app.add.apply_async((1, 2), connection=elsewhere)"
    )
    assert producer.close() == 0
    [after] = receiver.spans
    assert (after.status, after.parent_id) == ("unset", "")
    assert receiver.events == ()


def by_name(receiver: Receiver, number: int) -> Mapping[str, ReceivedSpan]:
    """Wait for spans of different names; the prefix and the module of a task are left out."""
    assert receiver.wait_for(lambda r: len(r.spans) >= number, LIMIT)
    assert len(receiver.spans) == number
    return {span.name.removeprefix(f"run {SHOP}."): span for span in receiver.spans}


def eager(live: LiveApp, source: str, *, always: bool = False) -> Any:
    """Run a line in a producer that ends then, so that all it had to tell is sent."""
    config = {"APP_CONFIG": '{"task_always_eager": true}'} if always else {}
    producer = live.producer(MEMORY, env=config)
    given = producer.run(source)
    assert producer.close() == 0
    return given


@pytest.mark.row("eager", "apply")
def test_apply_nests_and_restores(live: LiveApp, receiver: Receiver) -> None:
    """I run tasks eagerly, in one another, and each hangs on whatever called it."""
    source = """
from opentelemetry import trace
current = lambda: trace.get_current_span().get_span_context().span_id
with trace.get_tracer("web").start_as_current_span("GET /"):
    before = current()
    app.eager_inner.apply((1,))
    assert current() == before
    app.ignore.apply()
    assert current() == before
    try:
        app.eager_fail.apply(throw=True)
    except ValueError:
        pass
    assert current() == before
assert current() == 0
"""
    eager(live, source)
    spans = by_name(receiver, 6)
    parents = {name: span.parent_id for name, span in spans.items()}
    web = spans["GET /"].span_id
    assert parents == {
        "GET /": "",
        "eager_inner": web,
        "add": spans["eager_inner"].span_id,
        "ignore": web,
        "eager_fail": web,
        "fail": spans["eager_fail"].span_id,
    }
    assert len({span.trace_id for span in spans.values()}) == 1
    for name in ("eager_inner", "add", "ignore", "eager_fail", "fail"):
        assert spans[name].attributes[semconv.CELERY_EAGER] is True
    assert spans["ignore"].attributes[semconv.CELERY_OUTCOME] == "ignored"
    errors = {name for name, span in spans.items() if span.status == "error"}
    assert errors - {"GET /"} == {"eager_fail", "fail"}
    [event] = receiver.events
    assert trace_of(event) == (spans["fail"].trace_id, spans["fail"].span_id)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param("fail.apply()", marks=pytest.mark.row("eager", "apply")),
        pytest.param("fail.apply(throw=True)", marks=pytest.mark.row("eager", "apply")),
        pytest.param("fail.delay()", marks=pytest.mark.row("eager", "task_always_eager")),
    ],
)
def test_eager_failure(live: LiveApp, receiver: Receiver, call: str) -> None:
    """I run a failing task eagerly, by my call or by my settings, and hear of it once."""
    source = f"try: app.{call}\nexcept ValueError: result = 'raised'"
    raised = eager(live, source, always="delay" in call)
    assert (raised == "raised") == ("throw" in call)
    spans = by_name(receiver, 1)
    run = spans["fail"]
    assert (run.status, run.message, run.parent_id) == ("error", "boom", "")
    assert run.attributes[semconv.CELERY_OUTCOME] == "failed"
    [event] = receiver.events
    assert trace_of(event) == (run.trace_id, run.span_id)
    assert run.attributes[semconv.SENTRY_EVENT_ID] == event.event_id
    assert tags(event)[semconv.TAG_TASK] == f"{SHOP}.fail"


@pytest.mark.row("eager", "task_always_eager")
def test_task_always_eager(live: LiveApp, receiver: Receiver) -> None:
    """I set ``task_always_eager``: what I publish is run at once, under what published it."""
    source = """
from opentelemetry import trace
with trace.get_tracer("web").start_as_current_span("GET /"):
    app.calls_add.delay(1, 2)
    result = app.retry_then_ok.delay(2).get()
"""
    assert eager(live, source, always=True) == 3
    assert receiver.wait_for(lambda r: len(r.spans) >= 6, LIMIT)
    web, outer, inner, *attempts = sorted(receiver.spans, key=lambda span: span.start_ns)
    assert {span.trace_id for span in receiver.spans} == {web.trace_id}
    assert [span.name.rpartition(".")[2] for span in (outer, inner)] == ["calls_add", "add"]
    assert (outer.parent_id, inner.parent_id) == (web.span_id, outer.span_id)
    assert [span.parent_id for span in attempts] == [web.span_id] * 3
    assert [span.attributes[semconv.CELERY_ATTEMPT] for span in attempts] == [1, 2, 3]
    ends = [span.attributes[semconv.CELERY_OUTCOME] for span in attempts]
    assert ends == ["retried", "retried", "succeeded"]
    assert {span.kind for span in (outer, inner, *attempts)} == {"consumer"}
    assert {span.status for span in receiver.spans} == {"unset"}
    assert receiver.events == ()
