"""What Celery and billiard log of failures is recognised by what it says."""

from __future__ import annotations

import logging

import pytest

from tests.support.sentry import user_init
from tests.unit.sentry.test_pipeline import clean as clean  # noqa: PLC0414  # a fixture
from tests.unit.sentry.test_pipeline import pipeline

SAID_AGAIN = (
    "Process 'ForkPoolWorker-1' pid:7 exited with 'signal 9 (SIGKILL)'",
    "Task shop.pay[id-1] raised unexpected: ValueError('no')",
    "Task shop.pay[id-1] on_success handler raised: ValueError('no')",
    "Task handler raised error: WorkerLostError('signal 9')",
    "Hard time limit (1s) exceeded for shop.pay[id-1]",
    "Received unregistered task of type 'shop.gone'.",
    "2026-01-01 | ERROR | billiard.pool:_join - Process 'F-1' pid:7 exited with 'exitcode 7'",
)


@pytest.mark.parametrize("text", SAID_AGAIN)
def test_a_line_is_recognised_by_whichever_logger_it_comes(text: str) -> None:
    """I route all records through a logger of my own, as loguru's recipe does: no second event."""
    kept = user_init()
    with pipeline():
        logging.getLogger("my.interceptor").error(text)
        logging.getLogger("my.interceptor").error("Process of payment 7 exited with an error")
    assert [event["logentry"]["message"] for event in kept.events] == [
        "Process of payment 7 exited with an error"
    ]
