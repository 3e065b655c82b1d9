"""The shop of somebody who sets telemetry up in receivers of Celery's signals, after `init()`.

``APP_SENTRY_IN``, ``APP_OTEL_IN`` and ``APP_INIT_IN`` name the signal in whose receiver Sentry, a
provider, or taskobs itself is set up, in each process once.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import sentry_sdk
from celery import signals
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import taskobs

if "APP_INIT_IN" in os.environ:
    os.environ["TASKOBS_ENABLED"] = "0"  # for the shop's own init()

from tests.live.apps.shop import *  # noqa: F403  # it calls taskobs.init()
from tests.live.apps.shop import app as app  # noqa: PLC0414
from tests.live.apps.shop import session


def discard(event: object, hint: object) -> object:
    """Be the app's own ``before_send``, which lets all pass."""
    del hint
    return event


def set_up_sentry() -> None:
    """Initialise Sentry."""
    sentry_sdk.init(dsn=os.environ["APP_SENTRY_DSN"], before_send=discard)  # type: ignore[arg-type]  # as loose as an app's


def set_up_provider() -> None:
    """Set a provider."""
    provider = TracerProvider()
    exporter = OTLPSpanExporter(endpoint=os.environ["APP_OTLP"] + "/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def set_up_taskobs() -> None:
    """Set taskobs up, at last."""
    os.environ.pop("TASKOBS_ENABLED", None)
    session.close()
    taskobs.init()


def once_in(name: str, set_up: Callable[[], None]) -> None:
    """Have a function called at the first signal of a name, in each process."""
    done: set[int] = set()

    def receive(**_: object) -> None:
        if os.getpid() not in done:
            done.add(os.getpid())
            set_up()

    getattr(signals, name).connect(receive, weak=False)


for variable, set_up in (
    ("APP_INIT_IN", set_up_taskobs),
    ("APP_SENTRY_IN", set_up_sentry),
    ("APP_OTEL_IN", set_up_provider),
):
    if variable in os.environ:
        once_in(os.environ[variable], set_up)
