"""Every record of a process is taken once, whatever its handlers, and never two for one."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Generator
from types import FrameType
from typing import Any

import loguru
import pytest
import structlog
from billiard.exceptions import SoftTimeLimitExceeded

from taskobs.celery.active import current_run
from taskobs.internal.guard import Guard
from taskobs.observers.log_capture import LogCapture, quiet
from taskobs.protocol.log_entries import LogEntry, unpack_entry


class Taken(list[LogEntry]):
    """What was taken; ``fail`` makes taking raise."""

    def __init__(self) -> None:
        super().__init__()
        self.fail = False

    def take(self, payload: bytes) -> None:
        if self.fail:
            raise ValueError("no room")
        self.append(unpack_entry(payload))

    @property
    def bodies(self) -> list[str]:
        return [entry.body for entry in self]


@pytest.fixture
def taken() -> Generator[Taken]:
    """Take what is logged during the test."""
    found, before = Taken(), logging.Logger.callHandlers
    capture = LogCapture(current_run, found.take, Guard())
    capture.install()
    yield found
    capture.remove()
    assert logging.Logger.callHandlers is before


@pytest.fixture
def logger() -> Generator[logging.Logger]:
    logger = logging.getLogger("shop.capture")
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    logger.handlers.clear()
    logger.filters.clear()


def test_a_record_is_taken_once_without_and_with_handlers(
    taken: Taken, logger: logging.Logger
) -> None:
    """Whether a logger has no handler, two, or doesn't propagate: each line is one record."""
    logger.info("one")
    logger.addHandler(logging.NullHandler())
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    logger.info("two")
    assert taken.bodies == ["one", "two"]


def test_levels_and_filters_of_loggers_count(taken: Taken, logger: logging.Logger) -> None:
    """What my configuration turns off is not sent."""
    logger.debug("below the level")
    logger.addFilter(lambda record: "filtered" not in record.getMessage())
    logger.info("filtered")
    logger.disabled = True
    logger.info("disabled")
    logger.disabled = False
    assert taken.bodies == []


def test_structlog_and_loguru_are_taken_through_logging(
    taken: Taken, logger: logging.Logger
) -> None:
    """I log with structlog or loguru, which hand over to logging."""
    structlog.wrap_logger(
        logger, processors=[structlog.stdlib.render_to_log_kwargs], wrapper_class=None
    ).info("packed", order=12)

    class Propagate(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logger.handle(record)

    added = loguru.logger.add(Propagate(), format="{message}")
    loguru.logger.info("shipped")
    loguru.logger.remove(added)
    assert [body.strip() for body in taken.bodies] == ["packed", "shipped"]
    assert taken[0].attributes["order"] == 12


def test_what_sending_logs_itself_is_not_taken(taken: Taken, logger: logging.Logger) -> None:
    """An exporter that logs each of its requests makes no loop."""
    with quiet():
        logger.info("posted to the collector")
    logger.info("from the app")
    assert taken.bodies == ["from the app"]


def test_a_failure_is_logged_once_and_reaches_nobody(
    taken: Taken, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever breaks in taskobs, my logging call returns, and the line that says so is no loop."""
    taken.fail = True
    for _ in range(3):
        logger.info("hello")
    assert caplog.text.count("telemetry failed") == 1


def test_a_handler_that_raises_is_the_apps(taken: Taken, logger: logging.Logger) -> None:
    """What my own handlers raise, I see; the record is taken all the same."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError(record.getMessage())

    logger.addHandler(Broken())
    with pytest.raises(RuntimeError, match="hello"):
        logger.info("hello")
    assert taken.bodies == ["hello"]


def test_a_time_limit_that_strikes_meanwhile_costs_no_later_record(
    taken: Taken, logger: logging.Logger
) -> None:
    """My task reaches its soft time limit in a call of its log: the process's next lines are taken.

    Python calls a signal's handler when a call of a C function returns, as a profiler is.
    """

    def strike(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_return" and frame.f_code is code and function.__name__ == "set":
            sys.setprofile(None)
            raise SoftTimeLimitExceeded

    code = inspect.unwrap(quiet).__code__
    sys.setprofile(strike)
    try:
        with pytest.raises(SoftTimeLimitExceeded):
            logger.info("struck")
    finally:
        sys.setprofile(None)
    logger.info("later")
    assert taken.bodies == ["later"]
