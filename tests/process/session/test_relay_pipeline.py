"""A session in a worker hands all to a relay, and takes it back."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import sentry_sdk
from celery import Celery, signals
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import taskobs
from taskobs.celery.roles import Role
from taskobs.config.settings import RELAY_ADDRESS
from taskobs.relay_client import socket_directory, status
from taskobs.sentry.relay_transport import RelayTransport
from taskobs.session.session import Session
from taskobs.session.worker_relay import WorkerRelay
from taskobs.testing.receiver import Receiver
from tests.support.recording import global_provider
from tests.support.relay_status import replies

if not socket_directory.SUPPORTED:
    pytest.skip("no Unix sockets here", allow_module_level=True)

PATIENCE = 60.0


class Worker:
    """What of Celery's worker is looked at."""

    hostname = "w@host"

    def __init__(self, app: Celery) -> None:
        self.app = app


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as made:
        monkeypatch.setenv("XDG_RUNTIME_DIR", made)  # short, as a socket's name must be
        yield Path(made)


@pytest.fixture
def start(receiver: Receiver, app: Celery) -> Generator[Callable[..., Session]]:
    """Start a session in what says that it is a worker."""
    made: list[Session] = []

    def begin(**settings: Any) -> Session:
        settings = {"otlp_endpoint": receiver.endpoint, "shutdown_timeout": 30.0, **settings}
        session = taskobs.init(strict=True, **settings)
        made.append(session)
        signals.worker_init.send(Worker(app))
        return session

    yield begin
    for session in made:
        session.close()
    sentry_sdk.get_global_scope().set_client(None)


def sockets(home: Path) -> list[Path]:
    return list(home.glob("taskobs/*.sock"))


def relay_of(session: Session) -> WorkerRelay:
    live = session._live  # pyright: ignore[reportPrivateUsage]
    assert live is not None
    return live._relay  # pyright: ignore[reportPrivateUsage]


def relay_pid(session: Session) -> int:
    pipeline = relay_of(session)._pipeline  # pyright: ignore[reportPrivateUsage]
    assert pipeline is not None
    assert pipeline.relay_pid is not None
    return pipeline.relay_pid


def span(name: str) -> None:
    trace.get_tracer("test").start_span(name).end()


def names_of(receiver: Receiver) -> list[str]:
    return sorted(one.name for one in receiver.spans)


def test_a_worker_sends_through_its_relay(
    start: Callable[..., Session], receiver: Receiver, app: Celery, home: Path
) -> None:
    """What my worker records arrives through its relay, and `close()` leaves nothing behind."""
    steps = set(app.steps["consumer"])
    session = start(service_name="shop", sentry_dsn=receiver.dsn)
    assert len(sockets(home)) == 1
    pid, _, address = os.environ[RELAY_ADDRESS].split(":", 2)
    assert (pid, address) == (str(os.getpid()), str(sockets(home)[0]))
    client = sentry_sdk.get_client()
    assert isinstance(client.transport, RelayTransport)
    span("one")
    sentry_sdk.capture_message("hello")
    assert session.flush(PATIENCE)
    assert names_of(receiver) == ["one"]
    assert receiver.spans[0].resource["service.name"] == "shop"
    assert len(receiver.events) == 1
    relay = relay_pid(session)
    span("two")
    session.close()
    assert names_of(receiver) == ["one", "two"]
    assert set(app.steps["consumer"]) == steps
    assert sockets(home) == []
    assert RELAY_ADDRESS not in os.environ
    with pytest.raises(ProcessLookupError):
        os.kill(relay, 0)
    assert not isinstance(client.transport, RelayTransport)


@pytest.mark.parametrize(
    ("spans", "named", "service"),
    [(True, "orders", "orders"), (True, None, "shop"), (False, None, "shop")],
)
def test_the_status_names_the_service(
    start: Callable[..., Session],
    receiver: Receiver,
    *,
    spans: bool,
    named: str | None,
    service: str,
) -> None:
    """I look at the workers of my machine: each has its service, or else its app's name."""
    session = start(
        sentry_dsn=receiver.dsn,
        service_name=named,
        otlp_endpoint=receiver.endpoint if spans else None,
    )
    span("one")
    assert session.flush(PATIENCE)
    [one] = [one for one in status.every(os.environ, PATIENCE) if one.worker_pid == os.getpid()]
    assert (one.reply["worker"], one.reply["service"]) == ("w@host", service)
    assert one.age is not None


def test_a_worker_that_starts_twice_has_one_relay(
    start: Callable[..., Session], home: Path
) -> None:
    session = start()
    pid = relay_pid(session)
    signals.celeryd_after_setup.send("w@host", instance=None)
    assert relay_pid(session) == pid
    assert len(sockets(home)) == 1


def test_a_relay_that_is_killed_at_the_stop_is_replaced(
    start: Callable[..., Session], receiver: Receiver
) -> None:
    """All is told that was told, though the relay died a moment before my worker's end."""
    session = start()
    os.kill(relay_pid(session), signal.SIGSTOP)
    span("told")
    os.kill(relay_pid(session), signal.SIGKILL)
    session.close()
    assert names_of(receiver) == ["told"]


def test_a_worker_that_has_stopped_needs_no_relay(
    start: Callable[..., Session], receiver: Receiver, app: Celery, home: Path
) -> None:
    """My program goes on after its worker: it sends for itself, until it has a worker again."""
    session = start()
    first = relay_pid(session)
    span("in the worker")
    signals.worker_shutdown.send(None)
    assert names_of(receiver) == ["in the worker"]
    assert sockets(home) == []
    span("after it")
    assert session.flush(PATIENCE)
    assert names_of(receiver) == ["after it", "in the worker"]
    signals.worker_init.send(Worker(app))
    assert relay_pid(session) != first
    span("again")
    session.close()
    assert names_of(receiver) == ["after it", "again", "in the worker"]


@pytest.mark.parametrize("settings", [{"relay": False}, {"otlp_endpoint": None}], ids=repr)
def test_where_it_is_not_wanted_there_is_none(
    start: Callable[..., Session], home: Path, settings: dict[str, Any]
) -> None:
    """I turn it off, or have configured nothing: no process, no socket."""
    start(**settings)
    assert sockets(home) == []
    assert RELAY_ADDRESS not in os.environ


def test_what_ended_before_the_worker_was_one_is_sent(
    start: Callable[..., Session], receiver: Receiver
) -> None:
    """My module makes a span while it is imported, before Celery says what this process is."""
    taskobs.init(otlp_endpoint=receiver.endpoint, strict=True)
    span("early")
    session = start()
    span("late")
    assert session.flush(PATIENCE)
    assert receiver.wait_for(lambda r: len(r.spans) == 2, PATIENCE)


def test_when_the_relay_cannot_work_the_process_sends(
    start: Callable[..., Session],
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """My relay is killed at each start: I am told once, and what it did not get is sent."""
    session = start(sentry_dsn=receiver.dsn)
    pipeline = relay_of(session)._pipeline  # pyright: ignore[reportPrivateUsage]
    assert pipeline is not None
    os.kill(relay_pid(session), signal.SIGSTOP)
    span("kept")
    sentry_sdk.capture_message("kept")
    end = time.monotonic() + PATIENCE
    while not pipeline.unavailable:
        assert time.monotonic() < end
        if pipeline.relay_pid is not None:
            os.kill(pipeline.relay_pid, signal.SIGKILL)
        pipeline.poll()
        time.sleep(0.02)
    span("direct")
    assert session.flush(PATIENCE)
    assert names_of(receiver) == ["direct", "kept"]
    assert len(receiver.events) == 1
    assert caplog.text.count("there is no relay") == 1


def test_a_spawned_child_finds_the_relay_of_its_parent_alone(
    start: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    """An address that another worker's processes have inherited is nobody's business here."""
    session = start(relay=False)
    relay = relay_of(session)
    relay._on = True  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setenv(RELAY_ADDRESS, f"{os.getppid() + 1}::/nowhere.sock")
    session.became(Role.POOL_CHILD)
    assert not relay.carries
    monkeypatch.setenv(RELAY_ADDRESS, f"{os.getppid()}::/nowhere.sock")
    session.became(Role.POOL_CHILD)
    assert relay.carries
    span("nobody listens")  # ... as it turns out
    assert not relay.carries
    assert session.flush(PATIENCE)
    assert names_of(receiver) == ["nobody listens"]


def test_what_the_relay_has_not_sent_is_in_the_workers_log(
    start: Callable[..., Session], caplog: pytest.LogCaptureFixture
) -> None:
    """My collector is down when my worker stops: its own log says how much waits, and why."""
    session = start(otlp_endpoint="http://127.0.0.1:9", shutdown_timeout=2.0)
    for number in range(3):
        span(f"span {number}")
    deadline = time.monotonic() + PATIENCE
    # On a busy machine a relay takes longer to start, and to try, than a worker waits at its stop.
    while not any(one["failing"] for one in replies(os.getpid())):
        assert time.monotonic() < deadline
    session.process_ending()
    [line] = [one.getMessage() for one in caplog.records if "has not sent" in one.getMessage()]
    assert "3 spans (no response (ConnectionRefusedError: Connection refused))" in line


def test_a_worker_whose_exit_hooks_run_twice_says_nothing(
    start: Callable[..., Session], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """I stop my worker cold, all was sent, and no line in the log says that something was not."""
    session = start(shutdown_timeout=PATIENCE)
    span("one")
    session.process_ending()
    session.process_ending()
    assert names_of(receiver) == ["one"]
    assert [one.getMessage() for one in caplog.records if "unsent" in one.getMessage()] == []


def test_what_is_recorded_after_the_relay_was_closed_is_said(
    start: Callable[..., Session], caplog: pytest.LogCaptureFixture
) -> None:
    """An exit hook of my app records a span after the relay was closed: the log says so."""
    session = start(shutdown_timeout=PATIENCE)
    span("one")
    session.process_ending()
    span("too late")
    session.process_ending()
    assert [one for one in caplog.records if "telemetry unsent" in one.getMessage()]


# The app's own provider.


def own_provider(*endpoints: str) -> TracerProvider:
    """Set a provider as an app does, with an exporter for each endpoint."""
    provider = TracerProvider(resource=Resource({"service.name": "own"}), shutdown_on_exit=False)
    for endpoint in endpoints:
        exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider


def test_the_apps_own_spans_go_through_the_relay(
    start: Callable[..., Session], receiver: Receiver, home: Path
) -> None:
    """My own provider's spans survive in the relay's memory, and arrive at both of my backends."""
    with Receiver() as other, global_provider(own_provider(receiver.endpoint, other.endpoint)):
        session = start(otlp_endpoint=None)
        assert len(sockets(home)) == 1
        span("one")
        assert session.flush(PATIENCE)
        assert names_of(receiver) == names_of(other) == ["one"]
        assert {one.resource["service.name"] for one in receiver.spans} == {"own"}
        session.close()
        span("after it")
        provider = trace.get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        provider.shutdown()
        assert names_of(receiver) == names_of(other) == ["after it", "one"]


def test_relay_providers_off_leaves_the_apps_exporters_alone(
    start: Callable[..., Session], receiver: Receiver, home: Path
) -> None:
    """`relay_providers=False`: no relay for my provider, which exports by itself."""
    provider = own_provider(receiver.endpoint)
    with global_provider():
        start(otlp_endpoint=None, relay_providers=False)
        assert sockets(home) == []
        span("one")
        provider.shutdown()
        assert names_of(receiver) == ["one"]


def test_a_provider_that_is_set_in_the_running_worker(
    start: Callable[..., Session], receiver: Receiver, home: Path
) -> None:
    """My provider and its second exporter come after the worker's start: the relay takes both."""
    with Receiver() as other, global_provider():
        session = start(otlp_endpoint=None)
        assert sockets(home) == []
        provider = own_provider(receiver.endpoint)
        assert len(sockets(home)) == 1
        span("one")
        exporter = OTLPSpanExporter(endpoint=f"{other.endpoint}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
        span("two")
        assert session.flush(PATIENCE)
        assert names_of(receiver) == ["one", "two"]
        assert names_of(other) == ["two"]
        session.close()
        provider.shutdown()


@contextmanager
def as_worker_command() -> Generator[None]:
    """Be in the command ``celery worker``."""
    from celery.bin.celery import celery

    context = click.Context(celery)
    context.invoked_subcommand = "worker"
    with context:
        yield


def bodies_of(receiver: Receiver, *wanted: str) -> list[str]:
    """Give the texts of the records that have one of these texts."""
    return sorted(str(one.body) for one in receiver.logs if one.body in wanted)


def test_log_records_go_through_the_relay_also_those_before_it(
    start: Callable[..., Session], receiver: Receiver
) -> None:
    """My module logs while it is imported: the relay sends that, and this process has no thread."""
    resource = {"team": "a"}
    log = logging.getLogger("shop")
    with as_worker_command():
        taskobs.init(strict=True, otlp_endpoint=receiver.endpoint, logs="otlp", resource=resource)
        log.warning("early")
        session = start()
        log.warning("late")
        assert not [one for one in threading.enumerate() if one.name == "taskobs-logs"]
    assert session.flush(PATIENCE)
    assert bodies_of(receiver, "early", "late") == ["early", "late"]
    assert {one.resource["team"] for one in receiver.logs} == {"a"}


def test_log_records_alone_have_a_relay_too(
    start: Callable[..., Session], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I send neither spans nor errors, only log records: they arrive with the service's name."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", f"{receiver.endpoint}/v1/logs")
    session = start(otlp_endpoint=None, logs="otlp", service_name="shop")
    assert relay_of(session).carries
    logging.getLogger("shop").warning("alone")
    assert session.flush(PATIENCE)
    [found] = [one for one in receiver.logs if one.body == "alone"]
    assert found.resource["service.name"] == "shop"
    assert receiver.spans == ()


def test_when_the_relay_cannot_work_the_process_sends_its_log_records(
    start: Callable[..., Session], receiver: Receiver
) -> None:
    """What a relay that is gone did not send is sent by this process, and what comes then."""
    session = start(logs="otlp")
    pipeline = relay_of(session)._pipeline  # pyright: ignore[reportPrivateUsage]
    assert pipeline is not None
    os.kill(relay_pid(session), signal.SIGSTOP)
    log = logging.getLogger("shop")
    log.warning("kept")
    end = time.monotonic() + PATIENCE
    while not pipeline.unavailable:
        assert time.monotonic() < end
        if pipeline.relay_pid is not None:
            os.kill(pipeline.relay_pid, signal.SIGKILL)
        pipeline.poll()
        time.sleep(0.02)
    log.warning("direct")
    assert session.flush(PATIENCE)
    assert bodies_of(receiver, "kept", "direct") == ["direct", "kept"]
