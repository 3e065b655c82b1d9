"""What taskobs sends is no request of the app's: instrumentations of HTTP clients leave it out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from celery import Celery
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from urllib3.connectionpool import HTTPConnectionPool

import taskobs
from taskobs.testing.receiver import Receiver


def test_events_make_no_spans_on_their_way(
    app: Celery, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I instrument urllib3: what my tasks ask is in my traces, and what goes to Sentry is not."""
    makes_spans: list[bool] = []
    sends = HTTPConnectionPool.urlopen

    def urlopen(*args: Any, **kwargs: Any) -> Any:
        makes_spans.append(is_instrumentation_enabled())
        return sends(*args, **kwargs)

    monkeypatch.setattr(HTTPConnectionPool, "urlopen", urlopen)

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no funds")

    monkeypatch.setattr(logging.getLogger("celery.app.trace"), "disabled", True)
    with taskobs.init(sentry_dsn=receiver.dsn, strict=True):
        fail.apply()
    assert len(receiver.events) == 1
    assert makes_spans
    assert not any(makes_spans)
