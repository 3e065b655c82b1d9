"""A real Sentry client that keeps its envelopes, and runs to give to the observer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from taskobs.model import Run, SpanAddress
from taskobs.observers.sentry.event_rule import EventRule
from taskobs.observers.sentry.observer import SentryObserver
from taskobs.sentry.pipeline import SentryPipeline

DSN = "http://key@127.0.0.1:9/1"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"


@dataclass(frozen=True)
class Settings:
    """The settings that the pipeline reads."""

    sentry_dsn: str | None = None
    environment: str | None = None
    release: str | None = None
    send_arguments: bool = False
    shutdown_timeout: float = 3.0


class Kept(Transport):
    """A transport of the user's own, which keeps what it is given."""

    def __init__(self, options: dict[str, Any] | None = None) -> None:
        super().__init__(options)
        self.events: list[dict[str, Any]] = []
        self.transactions: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        kept = {"event": self.events, "transaction": self.transactions}
        for item in envelope.items:
            if item.type in kept and item.payload.json is not None:
                kept[item.type].append(dict(item.payload.json))


def clear_isolation_scope() -> None:
    """Leave nothing in the isolation scope but a new trace.

    Without one, Sentry 2.45 looks for the trace of that scope in that scope, for ever.
    """
    sentry_sdk.get_isolation_scope().clear()
    sentry_sdk.get_isolation_scope().set_new_propagation_context()


def user_init(**options: Any) -> Kept:
    """Call ``sentry_sdk.init()`` as an app would, with no breadcrumb of an earlier test."""
    kept = Kept({"dsn": DSN})
    if "default_integrations" not in options:  # 3.x has none for logging by default
        options.setdefault("integrations", [])
        if not any(isinstance(one, LoggingIntegration) for one in options["integrations"]):
            options["integrations"] += [LoggingIntegration(event_level=logging.ERROR)]
    sentry_sdk.init(dsn=DSN, transport=kept, **options)
    clear_isolation_scope()
    return kept


def make_run(**changes: Any) -> Run:
    records: dict[str, Any] = {
        "task": "shop.pay",
        "name": "shop.pay",
        "task_id": "id-1",
        "root_id": "root-1",
        "parent_id": "parent-1",
        "attempt": 2,
        "queue": "orders",
        "hostname": "celery@w1",
        "routing_key": "orders.eu",
        "queue_latency": 0.25,
    }
    run = Run(**records)
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def address() -> SpanAddress:
    return SpanAddress(int(TRACE_ID, 16), int(SPAN_ID, 16), sampled=True)


def raised(exception: BaseException, *, argument: object = None) -> BaseException:
    """Raise ``exception`` from a frame that has ``argument`` among its variables."""
    try:
        _fail(exception, argument)
    except BaseException as caught:  # noqa: BLE001  # whichever a test asks for
        return caught
    raise AssertionError


def _fail(exception: BaseException, argument: object) -> None:
    local = argument
    assert local is argument, "what a frame variable would show"
    raise exception


def fail(observer: SentryObserver, run: Run, exception: BaseException | None = None) -> None:
    """Let a run fail as the session does."""
    with observer.run(run):
        run.exception = raised(exception or ValueError("no funds"), argument="s3cret-argument")
        observer.failed(run)


def observe(pipeline: SentryPipeline, *, send_arguments: bool = False) -> SentryObserver:
    return SentryObserver(pipeline, EventRule(send_arguments=send_arguments))
