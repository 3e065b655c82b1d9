"""What the doctor finds beside taskobs: signals, logging, Sentry's tracing, other libraries."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals
from celery.utils.dispatch import Signal
from opentelemetry import propagate
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.propagators.b3 import B3MultiFormat
from opentelemetry.propagators.composite import CompositePropagator

import taskobs
from taskobs.cli.doctor.evidence import Evidence
from taskobs.cli.doctor.finding import Status
from tests.support.doctor import evidence, examine, fine, found, probed

HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}


def of(app: Celery, **more: Any) -> Evidence:
    made = evidence(HERE)
    made.app = app
    for name, value in more.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def waiting(request: pytest.FixtureRequest) -> Generator[None]:
    """Connect a receiver of the app's to the signal that the test names."""
    signal: Signal = request.param
    signal.connect(set_up_tracing)
    yield
    signal.disconnect(set_up_tracing)


def set_up_tracing(**_: object) -> None:
    """Stand for what an app does in a signal."""


@pytest.mark.parametrize("waiting", [signals.worker_process_init], indirect=True)
@pytest.mark.parametrize("pool", ["threads", "gevent", "celery.concurrency.eventlet:TaskPool"])
@pytest.mark.usefixtures("waiting")
def test_a_pool_that_never_sends_what_the_app_waits_for_is_found(pool: str, app: Celery) -> None:
    """I have OpenTelemetry's recipe for prefork, and a pool without processes."""
    finding = found("pool_signals", of(app, pool=pool))
    assert "set_up_tracing waits for worker_process_init" in finding.what
    assert finding.fix.startswith("@signals.worker_init.connect")
    fine("pool_signals", of(app, pool="prefork"))
    app.conf.worker_pool = pool
    found("pool_signals", of(app))


def test_receivers_of_taskobs_are_none_of_the_app(app: Celery) -> None:
    """That of taskobs waits for the signal, too, and needs it on prefork alone."""
    with taskobs.init():
        fine("pool_signals", of(app, pool="gevent"))


@pytest.mark.parametrize("waiting", [signals.setup_logging], indirect=True)
@pytest.mark.usefixtures("waiting")
def test_logging_of_the_app_s_own_without_ids_is_found(app: Celery) -> None:
    """My dictConfig has a format without any id."""
    made = of(app, probe=probed(run={"log_ids": False}).probe)
    finding = found("log_setup", made, Status.WARNING)
    assert "set_up_tracing takes setup_logging" in finding.what
    assert "trace_id=%(trace_id)s" in finding.fix
    fine("log_setup", of(app, probe=probed(run={"log_ids": True}).probe))
    assert examine("log_setup", of(app)).status is Status.UNKNOWN
    fine("log_format", made)


def test_a_format_without_ids_is_found(app: Celery) -> None:
    """I have set worker_task_log_format, and left the ids out."""
    fine("log_format", of(app))
    app.conf.worker_task_log_format = "%(asctime)s %(message)s"
    finding = found("log_format", of(app), Status.WARNING)
    assert finding.fix.startswith('app.conf.worker_task_log_format = "')
    assert "trace_id=%(trace_id)s" in finding.fix
    as_json = of(app)
    as_json.settings = evidence(HERE | {"TASKOBS_LOG_FORMAT": "json"}).settings
    fine("log_format", as_json)


class Silent(CompositePropagator):
    """Writes nothing, as one that some library has set."""

    def inject(self, *_: object, **__: object) -> None:
        """Write nothing."""


@pytest.fixture
def textmap() -> Generator[None]:
    """Put back the global propagator."""
    before = propagate.get_global_textmap()
    yield
    propagate.set_global_textmap(before)


@pytest.mark.usefixtures("textmap")
def test_a_propagator_that_loses_the_trace_is_found() -> None:
    """Some library has set a propagator, and no run is below its publish any more."""
    fine("propagator", evidence(HERE))
    propagate.set_global_textmap(Silent([]))
    finding = found("propagator", evidence(HERE))
    assert "the global propagator (Silent) loses the trace" in finding.what
    assert "set_global_textmap" in finding.fix


class Failing(CompositePropagator):
    """Can't write, as one that waits for a configuration of its own."""

    def inject(self, *_: object, **__: object) -> None:
        """Fail."""
        raise RuntimeError("not configured")


@pytest.mark.usefixtures("textmap")
def test_a_propagator_that_fails_is_found() -> None:
    """It is a finding as any other: the rest is examined all the same."""
    propagate.set_global_textmap(Failing([]))
    finding = found("propagator", evidence(HERE))
    assert "the global propagator (Failing) fails with RuntimeError" in finding.what


@pytest.mark.usefixtures("textmap")
def test_another_propagator_that_carries_the_trace_is_fine() -> None:
    """B3 is as good: both ends have it."""
    propagate.set_global_textmap(B3MultiFormat())
    fine("propagator", evidence(HERE))


@pytest.mark.parametrize(
    "options", [{"traces_sample_rate": 1.0}, {"traces_sampler": set_up_tracing}]
)
def test_tracing_of_sentry_s_own_is_found(options: dict[str, Any]) -> None:
    """sentry_sdk.init() makes transactions, with ids that no span has."""
    made = evidence(HERE)
    made.sentry = {"dsn": "http://key@localhost/1", **options}
    finding = found("sentry_tracing", made, Status.WARNING)
    assert finding.fix == f"sentry_sdk.init(...)  # without {next(iter(options))}"


def test_a_client_without_tracing_is_fine() -> None:
    """Errors only, as most have it; and tracing where there are no spans to differ from."""
    made = evidence(HERE)
    made.sentry = {"dsn": "http://key@localhost/1", "traces_sample_rate": None}
    fine("sentry_tracing", made)
    alone = evidence()
    alone.sentry = {"traces_sample_rate": 1.0}
    fine("sentry_tracing", alone)


def test_statements_that_are_recorded_twice_are_found() -> None:
    """I have instrumented SQLAlchemy and its driver: each statement is two spans."""
    above = pytest.importorskip("opentelemetry.instrumentation.sqlalchemy").SQLAlchemyInstrumentor()
    below = pytest.importorskip("opentelemetry.instrumentation.sqlite3").SQLite3Instrumentor()
    for one in (above, below):
        fine("instrumentor", evidence(HERE))
        one.instrument()
    try:
        finding = found("instrumentor", evidence(HERE), Status.WARNING)
        assert "SQLAlchemy and sqlite3 are both instrumented" in finding.what
        assert "taskobs.init(instrument=True)" in finding.fix
        fine("instrumentor", evidence(HERE, instrument=True))
    finally:
        above.uninstrument()
        below.uninstrument()


def test_a_lazy_object_of_an_instrumentor_s_module_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """My environment has Django's instrumentor, and my app is none of Django's: no settings."""
    instrumentor = pytest.importorskip("opentelemetry.instrumentation.django")
    lazy: Any = pytest.importorskip("django.conf").LazySettings()
    monkeypatch.setattr(instrumentor, "settings", lazy)
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    fine("instrumentor", evidence(HERE))


def test_runs_that_are_recorded_twice_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock instrumentor is active beside taskobs: each run is two spans."""
    monkeypatch.setattr(set_up_tracing, "__module__", "opentelemetry.instrumentation.celery")
    with taskobs.init(otlp_endpoint="http://localhost:4318") as session:
        session.describe()
        fine("instrumentor", evidence(HERE))
        signals.task_prerun.connect(set_up_tracing)
        try:
            finding = found("instrumentor", evidence(HERE))
        finally:
            signals.task_prerun.disconnect(set_up_tracing)
    assert finding.fix == "remove CeleryInstrumentor().instrument()"


def test_the_stock_instrumentor_s_call_is_fine() -> None:
    """My call of CeleryInstrumentor stays, and has no effect beside taskobs."""
    with taskobs.init(otlp_endpoint="http://localhost:4318") as session:
        session.describe()
        stock: Any = CeleryInstrumentor
        stock().instrument()
        fine("instrumentor", evidence(HERE))


@pytest.mark.parametrize(
    ("installed", "on", "status"),
    [
        ("flower", False, Status.WARNING),
        ("celery-prometheus-exporter", False, Status.WARNING),
        ("prometheus-exporter-celery", False, Status.WARNING),
        (None, True, Status.WARNING),
        ("flower", True, Status.OK),
        (None, False, Status.OK),
    ],
)
def test_events_that_are_missing_or_in_vain_are_found(  # noqa: PLR0917  # fixtures, and a case
    installed: str | None,
    on: bool,  # noqa: FBT001  # of the table above
    status: Status,
    app: Celery,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Flower shows no tasks without -E; and -E costs a third of a worker where nobody reads."""
    if installed:
        found_at = tmp_path / f"{installed.replace('-', '_')}-1.0.dist-info"
        found_at.mkdir()
        (found_at / "METADATA").write_text(f"Name: {installed}\nVersion: 1.0\n")
    app.conf.worker_send_task_events = on
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path)])
        finding = examine("events", of(app))
    assert finding.status is status
    if installed and not on:
        assert finding.what.startswith(f"{installed} is installed")
        assert finding.fix.startswith("celery worker -E")
    if on and not installed:
        assert finding.fix.startswith("app.conf.worker_send_task_events = False")
