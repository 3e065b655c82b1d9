"""Whose client it is, what is laid over it, and what a forked child makes of it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest
import sentry_sdk
from celery import Celery
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from sentry_sdk import scope as sentry_scope
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.integrations import logging as sentry_logging
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.integrations.redis import RedisIntegration
from sentry_sdk.transport import HttpTransport

import taskobs
from taskobs.observers.sentry.observer import SentryObserver
from taskobs.sentry.pipeline import IGNORED_LOGGERS, SentryPipeline
from taskobs.sentry.trace_ids import current_span_ids
from tests.support.recording import PrivateApp
from tests.support.sentry import (
    DSN,
    Kept,
    Settings,
    clear_isolation_scope,
    fail,
    make_run,
    user_init,
)

IGNORED = "_IGNORED_LOGGERS" + ("_EVENTS" if sentry_sdk.VERSION >= "3" else "")
HAS_SLOT = hasattr(sentry_scope, "register_external_propagation_context")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Leave no client and no scope data to the next test."""
    yield
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)
    clear_isolation_scope()


@contextmanager
def pipeline(**settings: Any) -> Generator[SentryPipeline]:
    """Start a pipeline, and close it whatever happens."""
    started = SentryPipeline.start(Settings(**settings))
    try:
        yield started
    finally:
        started.close(1.0)


def stock_app() -> Celery:
    app = PrivateApp("stock", broker="memory://", backend="cache+memory://", set_as_current=False)

    @app.task(name="shop.fail")
    def fails(**_: object) -> None:
        raise ValueError("stock")

    app.conf.task_always_eager = True
    return app


def test_a_client_is_made_from_the_dsn() -> None:
    """A DSN is all it takes: errors only, without Sentry's per-task patches or arguments."""
    with pipeline(sentry_dsn=DSN, environment="blue", release="r1") as ours:
        client = ours.client()
        assert client is not None
        assert client is sentry_sdk.get_client()
        assert client.options["environment"] == "blue"
        assert client.options["release"] == "r1"
        assert client.options["traces_sample_rate"] is None
        assert client.options["max_breadcrumbs"] == 100
        assert client.get_integration(CeleryIntegration) is None
        assert client.get_integration("dedupe") is not None


def test_every_option_that_is_given_is_known_to_this_sentry() -> None:
    """A release of Sentry that dropped an option still initialises."""
    for send_arguments in (False, True):
        with pipeline(sentry_dsn=DSN, send_arguments=send_arguments) as ours:
            assert ours.client() is not None


def test_a_users_client_is_adopted_and_given_back() -> None:
    """An app's own ``sentry_sdk.init()`` stays in force, before, during and after."""
    kept = user_init()
    theirs = sentry_sdk.get_client()
    with pipeline(sentry_dsn="http://other@127.0.0.1:9/2") as ours:
        assert ours.client() is theirs
    assert sentry_sdk.get_client() is theirs
    sentry_sdk.capture_message("still here")
    assert len(kept.events) == 1


def test_the_stock_integration_is_set_aside_and_put_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Failures are reported once while taskobs is on, and by Sentry again afterwards."""
    kept = user_init(integrations=[CeleryIntegration()])
    stock = sentry_sdk.get_client().get_integration(CeleryIntegration)
    app = stock_app()
    with caplog.at_level(logging.INFO, "taskobs"), pipeline() as ours:
        assert sentry_sdk.get_client().get_integration(CeleryIntegration) is None
        app.tasks["shop.fail"].apply()
        fail(SentryObserver(ours), make_run())
        ours.client()
    assert len(kept.events) == 1
    assert [r.levelname for r in caplog.records if r.name == "taskobs"] == ["INFO"]
    assert sentry_sdk.get_client().get_integration(CeleryIntegration) is stock


def test_check_ins_that_stop_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever relied on beat check-ins learns at the start that they are off."""
    user_init(integrations=[CeleryIntegration(monitor_beat_tasks=True)])
    with caplog.at_level(logging.INFO, "taskobs"), pipeline():
        pass
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "check-ins" in warnings[0]


def test_a_client_initialised_later_is_adopted_at_the_next_run() -> None:
    """The order of ``taskobs.init()`` and ``sentry_sdk.init()`` does not matter."""
    with pipeline(sentry_dsn=DSN) as ours:
        observer = SentryObserver(ours)
        kept = user_init(integrations=[CeleryIntegration()])
        fail(observer, make_run())
        assert len(kept.events) == 1
        assert sentry_sdk.get_client().get_integration(CeleryIntegration) is None
        theirs = sentry_sdk.get_client()
    assert sentry_sdk.get_client() is theirs
    assert theirs.get_integration(CeleryIntegration) is not None


def test_a_later_client_is_adopted_before_the_first_run_of_a_worker() -> None:
    """My worker has no run that Sentry's own integration sees, whoever came first."""
    with taskobs.init(sentry_dsn=DSN, relay=False):
        user_init(integrations=[CeleryIntegration()])
        assert sentry_sdk.get_client().get_integration(CeleryIntegration) is None


def with_late(app: Celery, init: Callable[[], None]) -> Any:
    """Give a task that sets telemetry up and fails; its secrets are no source code around it."""

    @app.task(name="shop.late")
    def late_task(**_: object) -> None:
        init()
        raise ValueError("stock")

    return late_task


# Newer releases of Sentry ask for another option, which older ones don't have.
@pytest.mark.skipif("send_default_pii" not in DEFAULT_OPTIONS, reason="this Sentry has it not")
@pytest.mark.filterwarnings("ignore:The send_default_pii option:DeprecationWarning")
@pytest.mark.parametrize("send_arguments", [False, True])
def test_a_run_that_began_before_its_client_was_adopted_tells_no_arguments(
    *, send_arguments: bool
) -> None:
    """I allow Sentry personal data, and `taskobs.init()` comes in the midst of a task."""
    kept = user_init(
        integrations=[CeleryIntegration()], send_default_pii=True, traces_sample_rate=1.0
    )
    app = stock_app()

    def init() -> None:
        taskobs.init(sentry_dsn=DSN, relay=False, send_arguments=send_arguments)

    late_task = with_late(app, init)
    card = "s3cret-argument"
    try:
        for task in (late_task, app.tasks["shop.fail"]):
            task.apply(kwargs={"card": card})
    finally:
        taskobs.init().close()
    assert len(kept.events) == 2
    assert {event["tags"]["celery.task"] for event in kept.events} == {"shop.late", "shop.fail"}
    assert kept.transactions, "Sentry's own integration has begun the first run"
    told = json.dumps([kept.events, kept.transactions])
    jobs = [event["extra"]["celery-job"] for event in kept.events]
    kwargs = {"card": card} if send_arguments else "[Filtered]"
    names = ("shop.late", "shop.fail")
    assert [(job["task_name"], job["kwargs"]) for job in jobs] == [(name, kwargs) for name in names]
    assert (card in told) is send_arguments  # among the variables of my frames


def test_a_client_may_come_when_there_was_none() -> None:
    """Without a DSN nothing is sent until the app brings its client."""
    with pipeline() as ours:
        observer = SentryObserver(ours)
        fail(observer, make_run())
        kept = user_init()
        fail(observer, make_run())
    assert len(kept.events) == 1


def test_close_undoes_all() -> None:
    """After ``close()`` Sentry is as it was: client, loggers, processors, link, threads."""
    before = _state()
    ours = SentryPipeline.start(Settings(sentry_dsn=DSN))
    assert _state() != before
    ours.close(1.0)
    ours.close(1.0)
    assert _state() == before
    assert ours.client() is None
    assert not sentry_sdk.get_client().is_active()
    assert not [thread for thread in threading.enumerate() if "taskobs" in thread.name]


def _state() -> tuple[object, ...]:
    everywhere = sentry_sdk.get_global_scope()
    return (
        type(everywhere.client),
        everywhere._event_processors[:],  # pyright: ignore[reportPrivateUsage]  # no other way to see them
        set(getattr(sentry_logging, IGNORED)),
        getattr(sentry_scope, "_external_propagation_context_fn", None),
    )


def test_a_logger_that_the_user_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what taskobs silenced speaks again after ``close()``."""
    monkeypatch.setattr(sentry_logging, IGNORED, {"celery.redirected"})
    with pipeline():
        assert set(IGNORED_LOGGERS) <= getattr(sentry_logging, IGNORED)
    assert getattr(sentry_logging, IGNORED) == {"celery.redirected"}


@pytest.mark.parametrize("name", IGNORED_LOGGERS)
def test_celerys_own_words_on_a_failure_are_no_second_event(name: str) -> None:
    """Celery logs each failure too; one event is enough."""
    kept = user_init()
    with pipeline():
        logging.getLogger(name).error("Task %s raised unexpected", "shop.pay")
    assert kept.events == []


def test_a_dead_pool_child_is_not_reported_by_its_logger() -> None:
    """The lost run is reported with its tags; billiard's line about it is not."""
    kept = user_init()
    with pipeline():
        logging.getLogger("multiprocessing").error("Process %r pid:%r exited with %r", "a", 1, "9")
        logging.getLogger("multiprocessing").error("something else")
    assert [event["logentry"]["message"] for event in kept.events] == ["something else"]


def test_what_celery_logs_shows_no_arguments_outside_of_runs() -> None:
    """A message body that Celery shows, and crumbs of tasks received, stay in the worker."""
    kept = user_init()
    with pipeline():
        log = logging.getLogger("celery.worker.consumer.consumer")
        log.warning("Task received", extra={"data": {"args": "s3cret"}})
        log.error("Odd message.\nIts body was:\n%s", "s3cret", extra={"data": "s3cret"})
    assert len(kept.events) == 1
    assert "s3cret" not in json.dumps({**kept.events[0], "threads": None})


def test_events_carry_the_ids_of_the_current_span() -> None:
    """Any event of the process leads to the trace it happened in, sampled or not."""
    kept = user_init()
    with pipeline(), TracerProvider().get_tracer("t").start_as_current_span("s") as span:
        sentry_sdk.capture_message("linked")
    context = span.get_span_context()
    found = kept.events[0]["contexts"]["trace"]
    assert found["trace_id"] == trace.format_trace_id(context.trace_id)
    assert found["span_id"] == trace.format_span_id(context.span_id)


def test_no_span_means_no_link() -> None:
    """Outside of any span Sentry's own ids are used."""
    kept = user_init()
    with pipeline():
        assert current_span_ids() is None
        sentry_sdk.capture_message("alone")
    assert len(kept.events[0]["contexts"]["trace"]["trace_id"]) == 32


@pytest.mark.skipif(not HAS_SLOT, reason="this release of Sentry has no slot for other tracers")
def test_a_slot_that_somebody_else_took_is_left_to_them() -> None:
    """Another link to OpenTelemetry stays in place, during and after."""
    theirs = lambda: None  # noqa: E731
    sentry_scope.register_external_propagation_context(theirs)
    try:
        with pipeline():
            assert getattr(sentry_scope, "_external_propagation_context_fn", None) is theirs
        assert getattr(sentry_scope, "_external_propagation_context_fn", None) is theirs
    finally:
        sentry_scope.remove_external_propagation_context()


class _Sink(BaseHTTPRequestHandler):
    """Keeps what it is sent; answers after ``delay`` seconds, or when ``answer`` is set."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = cast("_Server", self.server)
        server.answer.wait(server.delay)
        server.bodies.append((self.headers.get("Content-Encoding"), body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    delay = 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Sink)
        self.answer = threading.Event()
        self.bodies: list[tuple[str | None, bytes]] = []

    @property
    def dsn(self) -> str:
        return f"http://key@127.0.0.1:{self.server_address[1]}/1"

    def messages(self) -> list[str]:
        return sorted(found for body in self.bodies for found in _messages(*body))


def _messages(encoding: str | None, body: bytes) -> Iterator[str]:
    import gzip

    if encoding == "br":
        brotli = pytest.importorskip("brotli")
        text = brotli.decompress(body)
    else:
        text = gzip.decompress(body)
    for line in text.splitlines():
        if b'"logentry"' in line or b'"message"' in line:
            event = json.loads(line)
            yield event.get("message") or event["logentry"]["message"]


@pytest.fixture
def server() -> Iterator[_Server]:
    """Run a Sentry of two lines on the loopback interface."""
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_flush_waits_for_what_was_captured(server: _Server) -> None:
    """After a flush that says so, everything has arrived."""
    with pipeline(sentry_dsn=server.dsn) as ours:
        sentry_sdk.capture_message("one")
        assert ours.flush(60.0)
        assert server.messages() == ["one"]


def test_events_are_compressed_fast(server: _Server) -> None:
    """My web process spends little on compressing what goes to Sentry, as a relay does."""
    with pipeline(sentry_dsn=server.dsn) as ours:
        sentry_sdk.capture_message("one")
        assert ours.flush(60.0)
    encoding, body = server.bodies[0]
    assert encoding == "gzip"
    assert body[8] == 4, "gzip's own word for its fastest level"


def test_a_client_of_the_apps_compresses_as_the_app_says(server: _Server) -> None:
    """What I have set for my own client holds."""
    options: Any = {"_experiments": {"transport_compression_level": 9}}
    sentry_sdk.init(dsn=server.dsn, auto_enabling_integrations=False, **options)
    with pipeline() as ours:
        sentry_sdk.capture_message("one")
        assert ours.flush(60.0)
    assert server.bodies[0][1][8] == 2, "gzip's own word for its best level"


def test_close_sends_what_is_left_and_ends_the_thread(server: _Server) -> None:
    """Nothing captured before ``close()`` is lost, and no thread stays."""
    before = set(threading.enumerate())
    with pipeline(sentry_dsn=server.dsn) as ours:
        sentry_sdk.capture_message("last words")
        ours.close(60.0)
    assert server.messages() == ["last words"]
    left = [t for t in set(threading.enumerate()) - before if "process_request" not in t.name]
    assert left == []


def test_a_slow_backend_does_not_hold_up_a_flush(server: _Server) -> None:
    """A Sentry that does not answer costs the time that was granted and no more."""
    server.delay = 60.0
    with pipeline(sentry_dsn=server.dsn) as ours:
        sentry_sdk.capture_message("slow")
        began = time.monotonic()
        assert not ours.flush(0.3)
        assert time.monotonic() - began < 0.3 + 20
        began = time.monotonic()
        ours.close(0.3)
        assert time.monotonic() - began < 0.3 + 20
    server.answer.set()


def test_flushing_nothing_starts_no_thread(server: _Server) -> None:
    """A process that captured nothing ends without Sentry's thread having been started."""
    with pipeline(sentry_dsn=server.dsn) as ours:
        before = threading.active_count()
        assert ours.flush(1.0)
        assert threading.active_count() == before


def test_a_transport_of_the_users_own_survives_the_fork_hook() -> None:
    """What the user brought is used as it is, in children too."""
    kept = user_init()
    with pipeline() as ours:
        ours.after_fork()
        transport: object = sentry_sdk.get_client().transport
        assert transport is kept
        assert isinstance(transport, Kept)


def test_the_fork_hook_makes_a_fresh_stock_transport() -> None:
    """A child has a transport of its own, with the options of its parent's, and no thread yet."""
    with pipeline(sentry_dsn=DSN) as ours:
        client = sentry_sdk.get_client()
        inherited = client.transport
        before = threading.active_count()
        ours.after_fork()
        assert client.transport is not inherited
        assert isinstance(client.transport, HttpTransport)
        assert client.transport.options is client.options
        assert threading.active_count() == before


def test_a_workers_own_redis_commands_are_no_breadcrumbs() -> None:
    """I use Redis as a broker, and Sentry notes the commands of my tasks, not the worker's."""
    user_init(integrations=[RedisIntegration()])
    client = sentry_sdk.get_client()
    pipeline = SentryPipeline.start(Settings())
    pipeline.ignore_broker_commands()
    pipeline.ignore_broker_commands()
    assert client.get_integration(RedisIntegration) is None
    pipeline.after_fork()
    assert client.get_integration(RedisIntegration) is not None
    pipeline.ignore_broker_commands()
    pipeline.close(0.0)
    assert client.get_integration(RedisIntegration) is not None
