"""Checks of what the app, or a library of its own, does beside taskobs."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from celery import signals

from taskobs import semconv
from taskobs.cli.doctor.checks import receivers
from taskobs.cli.doctor.checks.configuration import NOT_IMPORTED
from taskobs.cli.doctor.evidence import Evidence
from taskobs.cli.doctor.finding import Finding, broken, ok, unknown, warning
from taskobs.internal.causes import describe

_NO_CHILDREN: Final = ("threads", "gevent", "eventlet")
"""Pools that have no processes."""
_CONSUMERS: Final = (
    *("flower", "celery-exporter", "celery-prometheus-exporter", "prometheus-exporter-celery"),
)
"""Distributions that read nothing but events; the module of one is called ``src``."""
_DRIVERS: Final = (
    *("sqlite3", "psycopg", "psycopg2", "pymysql", "mysql", "mysqlclient", "asyncpg", "aiopg"),
)
_INSTRUMENTATION: Final = "opentelemetry.instrumentation."
_FIELD: Final = re.compile(r"task_id|trace_id")
_FORMAT: Final = (
    'app.conf.worker_task_log_format = "%(asctime)s %(levelname)s %(message)s '
    'task_id=%(task_id)s trace_id=%(trace_id)s"'
)


def propagator(_: Evidence) -> Finding:
    """Look whether what the global propagator writes leads back to the same trace."""
    from opentelemetry import propagate

    name = type(propagate.get_global_textmap()).__name__
    try:
        if _carries_a_trace():
            return ok(f"the global propagator ({name}) carries a trace")
        how = "loses the trace"
    except Exception as error:  # noqa: BLE001  # whatever a propagator of the app's raises
        how = f"fails with {describe(error)}"
    what = f"the global propagator ({name}) {how}: no run would be below its publish"
    return broken(what, "remove the call of set_global_textmap(), such as Sentry's OTLPIntegration")


def _carries_a_trace() -> bool:
    from opentelemetry import propagate, trace

    context = trace.SpanContext(0xD0C, 0xD0C, is_remote=False, trace_flags=trace.TraceFlags(1))
    carrier: dict[str, str] = {}
    current = trace.set_span_in_context(trace.NonRecordingSpan(context))
    propagate.inject(carrier, current)
    found = trace.get_current_span(propagate.extract(carrier)).get_span_context()
    return found.trace_id == context.trace_id


def sentry_tracing(evidence: Evidence) -> Finding:
    """Look whether Sentry's own tracing makes traces beside those of OpenTelemetry."""
    options = evidence.sentry
    names = [
        name for name in ("traces_sample_rate", "traces_sampler") if options.get(name) is not None
    ]
    if not names or not evidence.spans or options.get(names[0]) == 0:
        return ok("Sentry makes no traces of its own")
    what = f"sentry_sdk.init({names[0]}=...) makes traces of its own, with ids that no span has"
    return warning(what, f"sentry_sdk.init(...)  # without {' and '.join(names)}")


def instrumentor(evidence: Evidence) -> Finding:
    """Look whether a run, or a statement of SQL, is recorded twice."""
    if receivers.of_module(signals.task_prerun, semconv.STOCK_SCOPE) and _is_observed():
        what = "OpenTelemetry's CeleryInstrumentor is active beside taskobs: each run is two spans"
        return broken(what, "remove CeleryInstrumentor().instrument()")
    active = _active_instrumentors()
    drivers = [name for name in _DRIVERS if name in active]
    whole = evidence.settings is not None and evidence.settings.instrument
    if "sqlalchemy" in active and drivers and not whole:
        what = f"SQLAlchemy and {drivers[0]} are both instrumented: each statement is two spans"
        fix = f"remove the instrumentor of {drivers[0]}, or both: taskobs.init(instrument=True)"
        return warning(what, fix)
    names = ", ".join(sorted(active))
    return ok(f"once each: {names}" if names else "nothing is instrumented twice")


def _is_observed() -> bool:
    return receivers.of_module(signals.task_prerun, "taskobs")


def _active_instrumentors() -> set[str]:
    """Return the libraries whose instrumentors are active."""
    found: set[str] = set()
    for name, module in list(sys.modules.items()):
        if name.startswith(_INSTRUMENTATION) and name.count(".") == 2:  # noqa: PLR2004  # a package
            for one in list(vars(module).values()):
                # `isinstance` would ask for `one.__class__`, for which a lazy object, such as
                # Django's settings, sets itself up: it raises where Django isn't configured.
                if issubclass(type(one), type) and one.__module__ == name and _is_active(one):
                    found.add(name.rpartition(".")[2])
    return found


def _is_active(kind: type) -> bool:
    if not any(base.__name__ == "BaseInstrumentor" for base in kind.__mro__[1:]):
        return False
    # Each is a singleton, and only what has been made may be active.
    made: Any = vars(kind).get("_instance")
    return made is not None and bool(made.is_instrumented_by_opentelemetry)


def log_setup(evidence: Evidence) -> Finding:
    """Look whether an app that sets up logging by itself writes the ids."""
    if evidence.app is None:
        return unknown(NOT_IMPORTED)
    found = receivers.of_app(signals.setup_logging)
    if not found:
        return ok("Celery sets up logging")
    run = evidence.probe and evidence.probe.run
    if not run or run.get("log_ids") is None:
        return unknown(f"{found[0]} sets up logging; whether with ids, no probe has seen")
    if run["log_ids"]:
        return ok(f"{found[0]} sets up logging, with ids")
    what = (
        f"{found[0]} takes setup_logging, and its format has neither %(task_id)s nor %(trace_id)s"
    )
    fix = f'format="%(asctime)s %(levelname)s %(message)s trace_id=%(trace_id)s"  # in {found[0]}'
    return warning(what, fix)


def log_format(evidence: Evidence) -> Finding:
    """Look whether the format of tasks' log lines has the ids."""
    if evidence.app is None:
        return unknown(NOT_IMPORTED)
    found = evidence.settings
    if found is not None and (found.log_format or found.logs):
        return ok("log records are sent or written with their ids")
    if receivers.of_app(signals.setup_logging):
        return ok("the app sets up logging by itself: see log_setup")
    text = str(evidence.app.conf.worker_task_log_format)
    if _FIELD.search(text):
        return ok("the format of tasks has an id")
    what = "worker_task_log_format has neither %(task_id)s nor %(trace_id)s"
    return warning(what, _FORMAT)


def pool_signals(evidence: Evidence) -> Finding:
    """Look whether the app waits for a signal that its pool never sends."""
    if evidence.app is None:
        return unknown(NOT_IMPORTED)
    pool = evidence.pool or str(evidence.app.conf.worker_pool)
    waiting = receivers.of_app(signals.worker_process_init)
    if not waiting or not any(name in pool for name in _NO_CHILDREN):
        return ok(f"the pool {pool} sends the signals that the app waits for")
    what = f"{waiting[0]} waits for worker_process_init, which the pool {pool} never sends"
    return broken(what, "@signals.worker_init.connect  # in the place of worker_process_init")


def events(evidence: Evidence) -> Finding:
    """Look whether something here shows nothing without events, or whether they are in vain."""
    if evidence.app is None:
        return unknown(NOT_IMPORTED)
    on = bool(evidence.app.conf.worker_send_task_events)
    readers = list(filter(_is_installed, _CONSUMERS))
    if readers and not on:
        what = f"{readers[0]} is installed, and shows no task of workers that send no events"
        fix = "celery worker -E  # or read the metrics of taskobs, which need no events"
        return warning(what, fix)
    if on and not readers:
        what = (
            "workers send events, which cost a third of their main process's time; "
            "taskobs needs none"
        )
        fix = "app.conf.worker_send_task_events = False  # unless something elsewhere reads them"
        return warning(what, fix)
    return ok("workers send events, for " + readers[0] if on else "workers send no events")


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
