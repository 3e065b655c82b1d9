"""The shop of somebody who has another library beside taskobs; ``APP_NEIGHBOUR`` names it.

Each function sets one up as its documentation says. They run in the virtual environment that
``.ci/services neighbours`` makes, after `taskobs.init()`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from importlib import import_module
from typing import Any

from celery import signals
from opentelemetry import trace

from tests.live.apps.shop import *  # noqa: F403  # it calls taskobs.init()
from tests.live.apps.shop import app

KEY = "of nobody"
INSTRUMENTORS = {
    "pika": "PikaInstrumentor",
    "redis": "RedisInstrumentor",
    "requests": "RequestsInstrumentor",
    "sqlalchemy": "SQLAlchemyInstrumentor",
    "sqlite3": "SQLite3Instrumentor",
    "threading": "ThreadingInstrumentor",
    "urllib3": "URLLib3Instrumentor",
}


def logfire() -> None:
    """Configure Logfire, and have it instrument Celery."""
    library: Any = import_module("logfire")
    url = os.environ["APP_THEIRS"]
    library.configure(
        send_to_logfire=True,  # it sends nothing where the tests of an app run
        token=KEY,
        console=False,
        distributed_tracing=True,
        advanced=library.AdvancedOptions(base_url=url),
    )
    library.instrument_celery()


def langfuse() -> None:
    """Make a client of Langfuse: it adds a span processor to the provider that is set."""
    library: Any = import_module("langfuse")
    library.Langfuse(public_key="pk", secret_key=KEY, host=os.environ["APP_THEIRS"])


def stock() -> None:
    """Instrument Celery twice: at import, and in each pool child, as the documentation says."""
    module: Any = import_module("opentelemetry.instrumentation.celery")

    def child_started(**_: object) -> None:
        module.CeleryInstrumentor().instrument()

    module.CeleryInstrumentor().instrument()
    signals.worker_process_init.connect(child_started, weak=False)


def sentry() -> None:
    """Initialise Sentry with its own integration for Celery."""
    library: Any = import_module("sentry_sdk")
    integration: Any = import_module("sentry_sdk.integrations.celery")
    library.init(
        dsn=os.environ["APP_SENTRY_DSN"],
        integrations=[integration.CeleryIntegration(monitor_beat_tasks=True)],
        traces_sample_rate=1.0,
    )


def instrumentors() -> None:
    """Instrument the libraries that the tasks below use."""
    for name, kind in INSTRUMENTORS.items():
        module: Any = import_module(f"opentelemetry.instrumentation.{name}")
        getattr(module, kind)().instrument()


def django_structlog() -> None:
    """Log as django-structlog does, by its step in the worker."""
    settings: Any = import_module("django.conf").settings
    settings.configure(
        DJANGO_STRUCTLOG_CELERY_ENABLED=True,
        INSTALLED_APPS=["django_structlog"],
        LOGGING_CONFIG=None,
    )
    import_module("django").setup()
    structlog: Any = import_module("structlog")
    steps: Any = import_module("django_structlog.celery.steps")
    taskobs: Any = import_module("taskobs")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            taskobs.log_fields,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    app.steps["worker"].add(steps.DjangoStructLogInitStep)


def nothing() -> None:
    """Be started by a program that sets all up, such as ``ddtrace-run``."""


@app.task
def generate(prompt: str) -> str:
    """Ask a model, as Langfuse's users do."""
    client = import_module("langfuse").get_client()
    with client.start_as_current_observation(name="generation", as_type="generation") as made:
        made.update(output=prompt)
    return prompt


@app.task
def ask_redis() -> None:
    """Write a key."""
    redis: Any = import_module("redis")
    with redis.Redis.from_url(os.environ["APP_BACKEND"]) as client:
        client.set("a task's own", "1")


@app.task
def ask_rabbitmq(url: str) -> None:
    """Publish a message of the app's own, through pika."""
    pika: Any = import_module("pika")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare("a task's own")
        channel.basic_publish("", "a task's own", b"{}")


@app.task
def ask_web(url: str) -> None:
    """Ask a web server."""
    import_module("requests").get(url, timeout=30)


@app.task
def ask_driver() -> None:
    """Ask a database through its driver."""
    with sqlite3.connect(":memory:") as connection:
        connection.cursor().execute("SELECT 1")


@app.task
def ask_sqlalchemy() -> None:
    """Ask a database through SQLAlchemy."""
    library: Any = import_module("sqlalchemy")
    with library.create_engine("sqlite://").connect() as connected:
        connected.execute(library.text("SELECT 2"))


@app.task
def in_a_thread() -> None:
    """Do a part in a thread, in a span of its own."""

    def part() -> None:
        with trace.get_tracer("shop").start_as_current_span("part"):
            pass

    thread = threading.Thread(target=part)
    thread.start()
    thread.join()


SETS_UP = (logfire, langfuse, stock, sentry, instrumentors, django_structlog, nothing)
{made.__name__: made for made in SETS_UP}[os.environ.get("APP_NEIGHBOUR", "nothing")]()
