"""What a process that exports for itself logs while its backends are away."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest
from celery import Celery

import taskobs
from taskobs.testing.receiver import Receiver
from tests.live.services import free_port

PATIENCE = 60.0


@pytest.fixture
def port() -> int:
    """Give a port of which nobody takes connections yet."""
    return free_port()


def warnings(records: Iterable[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("backend", ["Sentry", "a collector"])
def test_an_outage_takes_two_lines(
    app: Celery,
    port: int,
    backend: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sentry or my collector is away for a while: one line when it goes, one when it is back."""

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no funds")

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    settings = {
        "Sentry": {"sentry_dsn": f"http://s3cret@127.0.0.1:{port}/1"},
        "a collector": {"otlp_endpoint": f"http://127.0.0.1:{port}"},
    }[backend]
    monkeypatch.setattr(logging.getLogger("celery.app.trace"), "disabled", True)
    with taskobs.init(**settings, strict=True) as session:  # type: ignore[arg-type]  # settings
        for _ in range(3):
            fail.apply()
            session.flush(PATIENCE)
        [began] = warnings(caplog.records)
        with Receiver(port=port) as receiver:
            fail.apply()
            session.flush(PATIENCE)
            assert len(receiver.events) + len(receiver.spans) == 1
            ended = warnings(caplog.records)[1:]
    assert f"127.0.0.1:{port}" in began
    assert "failed, retrying" in began
    assert "s3cret" not in began
    [line] = ended
    assert "works again" in line
    assert line.endswith("; 3 lost")


def test_what_an_outage_has_cost_is_said_at_the_end(
    app: Celery, port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentry stays away until my script ends: I read how much of what was not sent."""

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no funds")

    monkeypatch.setattr(logging.getLogger("celery.app.trace"), "disabled", True)
    with taskobs.init(sentry_dsn=f"http://key@127.0.0.1:{port}/1", strict=True) as session:
        for _ in range(2):
            fail.apply()
        session.flush(PATIENCE)
    assert ["2 lost" in line for line in warnings(caplog.records)] == [False, True]
