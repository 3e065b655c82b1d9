"""`taskobs.context` and `taskobs.set_context`: what holds where, and what is refused."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from contextvars import copy_context
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from weakref import ref

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, group, signature
from celery.app.task import Context
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import taskobs
from taskobs import semconv
from taskobs.celery.active import current_run
from taskobs.celery.patches.celery_stack import EndedRun, ending
from taskobs.observers.context import accept as accept_context_keys
from taskobs.observers.context import state as context_state
from taskobs.observers.context import values as context_values
from taskobs.observers.logs import LogFields
from tests.support.recording import Recorder


def now() -> dict[str, object]:
    return dict(context_values.values_of(current_run()))


def given(span: Any) -> dict[str, object]:
    """Give the attributes of a span that have no name of a convention."""
    attributes: dict[str, object] = dict(span.attributes or {})
    return {name: value for name, value in attributes.items() if "." not in name}


# Where values hold


def test_a_block_ends_with_its_values() -> None:
    """What I say in a block holds inside it, and what an outer one says holds again after it."""
    with taskobs.context(tenant="acme", user_id=7):
        with taskobs.context(tenant="other", vip=True):
            assert now() == {"user_id": 7, "tenant": "other", "vip": True}
        assert now() == {"tenant": "acme", "user_id": 7}
    assert now() == {}


def test_a_block_ends_when_it_raises() -> None:
    """A block that fails ends all the same."""
    with pytest.raises(KeyError), taskobs.context(tenant="acme"):
        raise KeyError
    assert now() == {}


def test_what_is_set_in_a_block_ends_with_it() -> None:
    """I set a value somewhere inside, and it is gone after the block."""
    with taskobs.context(tenant="acme"):
        taskobs.set_context(order=1)
        assert now() == {"tenant": "acme", "order": 1}
    assert now() == {}


def test_none_takes_a_value_away() -> None:
    """The user logs out: None, and nobody is named."""
    taskobs.set_context(tenant="acme", user_id=7)
    taskobs.set_context(user_id=None)
    assert now() == {"tenant": "acme"}


def test_threads_and_asyncio_tasks_have_their_own() -> None:
    """Requests that are served side by side don't see each other's tenant."""

    async def serve(name: str) -> dict[str, object]:
        taskobs.set_context(tenant=name)
        await asyncio.sleep(0)
        with taskobs.context(user_id=name):
            await asyncio.sleep(0)
            return now()

    async def serve_all() -> list[dict[str, object]]:
        return await asyncio.gather(*(serve(f"t{number}") for number in range(20)))

    found = asyncio.run(serve_all())
    assert found == [{"tenant": f"t{n}", "user_id": f"t{n}"} for n in range(20)]
    taskobs.set_context(tenant="main")
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(now()))
    thread.start()
    thread.join()
    with_copy = threading.Thread(target=copy_context().run, args=(lambda: seen.append(now()),))
    with_copy.start()
    with_copy.join()
    assert seen == [{}, {"tenant": "main"}]


def test_a_block_may_be_left_in_another_context() -> None:
    """An asynchronous generator is closed by the event loop: leaving the block raises nothing."""
    block = taskobs.context(tenant="acme")
    copy_context().run(block.__enter__)
    block.__exit__(None, None, None)
    assert now() == {}


# Runs


class Large: ...


def test_what_a_run_sets_ends_with_it(app: Celery, spans: Recorder) -> None:
    """A task says whom it is for; the next one in this thread is for nobody."""
    never_left: list[object] = []
    seen: list[dict[str, object]] = []

    @app.task(name="first")
    def first() -> None:
        seen.append(now())
        taskobs.set_context(tenant="acme")
        block = taskobs.context(user_id=7)
        block.__enter__()
        never_left.append(block)
        seen.append(now())

    first.apply()
    first.apply()
    with taskobs.context(tenant="other"):
        never_left.clear()
        assert now() == {"tenant": "other"}
    assert seen == [{}, {"tenant": "acme", "user_id": 7}] * 2
    assert now() == {}
    assert [given(span) for span in spans.named("run first")] == [
        {"tenant": "acme", "user_id": 7}
    ] * 2


def test_an_eager_run_has_what_its_caller_has(app: Celery, spans: Recorder) -> None:
    """With `task_always_eager`, values reach the task, and what it sets stays in it."""
    seen: list[dict[str, object]] = []

    @app.task(name="inner")
    def inner() -> None:
        seen.append(now())
        taskobs.set_context(order=1)

    @app.task(name="outer")
    def outer() -> None:
        taskobs.set_context(user_id=7)
        inner.apply()
        seen.append(now())

    with taskobs.context(tenant="acme"):
        outer.apply()
        assert now() == {"tenant": "acme"}
    assert seen == [{"tenant": "acme", "user_id": 7}] * 2
    assert given(spans.one("run outer")) == {"tenant": "acme", "user_id": 7}
    assert given(spans.one("run inner")) == {"tenant": "acme", "user_id": 7, "order": 1}


def test_a_record_is_freed_though_its_run_has_set_values(app: Celery, spans: Recorder) -> None:
    """A task has large arguments and sets a value: the arguments go when it ends."""

    @app.task(name="large")
    def large(_: object) -> None:
        taskobs.set_context(tenant="acme")

    argument = Large()
    freed = ref(argument)
    large.apply((argument,))
    del argument
    gc.collect()
    assert freed() is None
    assert spans.named("run large")


def test_a_publish_has_them_on_its_span(app: Celery, spans: Recorder) -> None:
    """I search for a tenant in Jaeger, and find what was published for it."""
    with taskobs.context(tenant="acme", user_id=7):
        app.send_task("add")
    app.send_task("add")
    assert [given(span) for span in spans.named("publish add")] == [
        {"tenant": "acme", "user_id": 7},
        {},
    ]


def test_a_group_has_them_on_its_span(app: Celery, spans: Recorder) -> None:
    """A group is published for a tenant: the span around its parts has the tenant, too."""
    with taskobs.context(tenant="acme"):
        group(signature("add", app=app), signature("add", app=app)).apply_async()
    assert [given(span) for span in spans.spans] == [{"tenant": "acme"}] * 3


def test_the_current_span_gets_what_is_set() -> None:
    """I set the tenant in a request, and the request's span has it; a block leaves it alone."""
    with TracerProvider().get_tracer("web").start_as_current_span("GET /") as span:
        with taskobs.context(tenant="one of many"):
            pass
        taskobs.set_context(user_id=7)
    assert given(span) == {"user_id": 7}


def test_a_time_limit_that_strikes_meanwhile_reaches_the_task() -> None:
    """My task reaches its soft time limit just as it sets a value: it is told."""

    class Struck(trace.NonRecordingSpan):
        def set_attributes(self, attributes: object) -> None:  # noqa: ARG002  # as the API has it
            raise SoftTimeLimitExceeded

    with trace.use_span(Struck(trace.INVALID_SPAN_CONTEXT)), pytest.raises(SoftTimeLimitExceeded):
        taskobs.set_context(tenant="acme")


# Traces

TRACER = TracerProvider().get_tracer("web")


def test_what_a_request_sets_does_not_hold_in_the_next(app: Celery, spans: Recorder) -> None:
    """Two requests are served by the same thread, each with a span: the second is for nobody."""
    taskobs.set_context(region="eu")
    with TRACER.start_as_current_span("GET /1"):
        taskobs.set_context(tenant="acme")
        with TRACER.start_as_current_span("a query"):
            taskobs.set_context(user_id=7)
        app.send_task("first")
    assert now() == {"region": "eu", "tenant": "acme", "user_id": 7}  # an error may be reported
    for number in (2, 3):
        with TRACER.start_as_current_span(f"GET /{number}"):
            app.send_task("next")
            with taskobs.context(page=number):
                taskobs.set_context(part=1)
                assert now() == {"region": "eu", "page": number, "part": 1}
            taskobs.set_context(order=number)
            assert now() == {"region": "eu", "order": number}
    assert given(spans.one("publish first")) == {"region": "eu", "tenant": "acme", "user_id": 7}
    assert [given(span) for span in spans.named("publish next")] == [{"region": "eu"}] * 2


def test_a_thread_that_serves_for_years_keeps_one_request() -> None:
    """What requests have set is not kept, one by one, in the thread that serves them."""
    taskobs.set_context(region="eu")
    for number in range(1000):
        with TRACER.start_as_current_span("GET /"):
            taskobs.set_context(order=number)
    kept = [entry for entry in gc.get_objects() if type(entry).__name__ == "_Entry"]
    assert len(kept) < 100


# Values


class Colour(str, Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Text(str):
    """As Django's SafeString."""

    __slots__ = ()

    def __str__(self) -> str:
        raise AssertionError


RECORDED: list[tuple[Any, object]] = [
    ("acme", "acme"),
    ("", ""),
    ("ä" * 300, "ä" * 200),
    ("two\nlines\x1b[31m", "two?lines?[31m"),
    ("\ud800", "?"),
    (Text("safe"), "safe"),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (True, True),
    (0, 0),
    (-(2**63) + 1, -(2**63) + 1),
    (1.5, 1.5),
    (2**63, None),
    (10**5000, None),
    (float("nan"), None),
    (float("-inf"), None),
]


@pytest.mark.parametrize(
    ("value", "recorded"),
    RECORDED,
    ids=[repr(v)[:20] for v, _ in RECORDED[:-4]] + ["2**63", "10**5000", "nan", "-inf"],
)
def test_values_are_recorded_in_a_form_that_any_backend_takes(value: Any, recorded: object) -> None:
    """Whatever my strings and numbers hold, no line, header or span breaks by it."""
    with taskobs.context(key=value):
        found = now().get("key")
    assert (found, type(found)) == (recorded, type(recorded))


@pytest.mark.parametrize("value", [object(), b"acme", ["acme"], {"a": 1}, Decimal(1), 1j])
@pytest.mark.parametrize("call", [taskobs.context, taskobs.set_context])
def test_another_type_is_refused_at_the_call(call: Callable[..., object], value: object) -> None:
    """I give an object, and the error names the key, its type and what to write."""
    with pytest.raises(taskobs.ContextError, match="tenant") as caught:
        call(tenant=value)
    assert f"{type(value)}" in str(caught.value)
    assert "tenant=str(" in str(caught.value)
    assert now() == {}


@pytest.mark.parametrize(
    "key",
    [
        *("1st", "", "with space", "celery.queue", "_private", "ä", "x" * 33),
        *("task_id", "trace_id", "span_id", "name", "msg", "message", "levelname", "taskName"),
        *("release", "environment", "user", "celery_task_id", "event"),
    ],
)
@pytest.mark.parametrize("call", [taskobs.context, taskobs.set_context])
def test_a_key_that_can_not_be_is_refused_at_the_call(
    call: Callable[..., object], key: str
) -> None:
    """I choose a name that would overwrite another, and hear of it at once."""
    with pytest.raises(taskobs.ContextError) as caught:
        call(**{key: 1})
    assert repr(key) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_values_are_bounded_in_number() -> None:
    """A loop that invents keys fills no memory."""
    for number in range(100):
        taskobs.set_context(**{f"key{number}": number})
    assert list(now()) == [f"key{number}" for number in range(context_values.MOST)]


def test_a_proxy_is_not_what_it_stands_for() -> None:
    """I give the user's proxy in place of its id, and hear of it at the call."""
    proxy = type("Proxy", (), {"__class__": property(lambda _: str)})()  # as werkzeug's
    assert isinstance(proxy, str)
    with pytest.raises(taskobs.ContextError, match="Proxy"):
        taskobs.set_context(user_id=proxy)


# Log records


def line(fields: str) -> str:
    """Give what a format makes of a record that is logged now."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(fields))
    logger = logging.getLogger("shop")
    logger.addHandler(handler)
    logger.warning("hello", extra={"mine": "stays"})
    logger.removeHandler(handler)
    return stream.getvalue().strip()


@pytest.fixture
def fields() -> Generator[LogFields]:
    """Add the fields to records of `logging`, as `init()` does."""
    installed = LogFields(current_run)
    installed.install()
    yield installed
    installed.remove()


def test_log_fields_have_them() -> None:
    """I log with structlog or by myself: the fields have my values, as texts."""
    with taskobs.context(tenant="acme", vip=True, user_id=7):
        found = taskobs.log_fields()
    assert (found["tenant"], found["vip"], found["user_id"]) == ("acme", "true", "7")
    assert "tenant" not in taskobs.log_fields()


def test_a_format_may_name_each_key_that_messages_carry(fields: LogFields) -> None:
    """My format names the tenant, and a line that is of none is empty there."""
    accept_context_keys(frozenset({"tenant"}))
    assert line("%(tenant)s|%(message)s") == "|hello"
    with taskobs.context(tenant="acme", mine="does not"):
        assert line("%(tenant)s|%(mine)s|%(message)s") == "acme|stays|hello"
    assert fields


def test_a_thread_of_a_run_logs_its_values(app: Celery, spans: Recorder, fields: LogFields) -> None:
    """My task starts a thread, and its lines are for the same tenant."""
    lines: list[str] = []

    @app.task(name="threaded")
    def threaded() -> None:
        taskobs.set_context(tenant="acme")
        thread = threading.Thread(target=lambda: lines.append(line("%(task_name)s|%(tenant)s")))
        thread.start()
        thread.join()

    threaded.apply()
    assert lines == ["threaded|acme"]
    assert spans
    assert fields


# Sessions


def test_a_session_accepts_its_keys_until_it_is_closed() -> None:
    """`init()` names the keys that messages may carry, and `close()` forgets them."""
    with taskobs.init(context_keys=["tenant", "user_id"], sentry_dsn=""):
        assert context_state.keys == {"tenant", "user_id"}
    assert context_state.keys == frozenset()


def test_the_errback_of_a_run_that_died_is_for_its_tenant(app: Celery, spans: Recorder) -> None:
    """A pool child is killed, and the errback that its worker publishes has the run's values."""
    accept_context_keys(frozenset({"tenant"}))
    message = Context({"id": "id-1", semconv.HEADER_CONTEXT: '{"tenant": "acme"}'})
    with ending(lambda: EndedRun(None, message, (), {})):
        app.send_task("errback")
    app.send_task("other")
    assert given(spans.one("publish errback")) == {"tenant": "acme"}
    assert given(spans.one("publish other")) == {}


# Exceptions that leave a block


def leave(error: BaseException) -> None:
    """Raise in a block."""
    with taskobs.context(order=1):
        raise error


def test_a_failure_has_the_values_of_the_block_that_it_left(app: Celery, spans: Recorder) -> None:
    """My task goes through orders, each in a block, and the failed span says at which it failed."""

    @app.task(name="ship")
    def ship(failing: int) -> None:
        for order in range(3):
            with taskobs.context(order=order), taskobs.context(part=order * 10):
                if order == failing:
                    raise KeyError(order)

    ship.apply((1,))
    ship.apply((7,))
    assert [given(span) for span in spans.named("run ship")] == [{"order": 1, "part": 10}, {}]


def test_an_exception_that_was_handled_says_nothing(app: Celery, spans: Recorder) -> None:
    """One order fails and is handled; the task fails later, for another reason."""

    @app.task(name="ship")
    def ship() -> None:
        with suppress(KeyError), taskobs.context(order=1):
            raise KeyError
        raise ValueError

    ship.apply()
    assert given(spans.one("run ship")) == {}


def test_a_failure_has_the_values_of_its_cause(app: Celery, spans: Recorder) -> None:
    """I wrap what went wrong in an error of my own: it is still known for which order."""

    @app.task(name="ship")
    def ship() -> None:
        try:
            leave(KeyError())
        except KeyError as error:
            raise ValueError from error

    ship.apply()
    assert given(spans.one("run ship")) == {"order": 1}


def test_an_exception_is_not_kept_by_the_block_that_it_left() -> None:
    """A block that was left by an exception keeps neither it nor what its frames hold."""

    class OwnError(Exception): ...

    def left() -> ref[OwnError]:
        error = OwnError()
        with suppress(OwnError):
            leave(error)
        return ref(error)

    found = left()
    gc.collect()  # its traceback and the frames of this test refer to each other
    assert found() is None


class SealedError(Exception):
    """Takes no attribute of others."""

    @property
    def __dict__(self) -> dict[str, object]:  # type: ignore[override]
        raise RuntimeError

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("__"):
            raise RuntimeError
        super().__setattr__(name, value)


@pytest.mark.parametrize("error", [KeyError, SealedError, SystemExit, KeyboardInterrupt])
def test_any_exception_may_leave_a_block(error: type[BaseException]) -> None:
    """Whatever my code raises comes out of the block as it is."""
    raised = error("x")
    with pytest.raises(error) as caught, taskobs.context(order=1):
        raise raised
    assert caught.value is raised
