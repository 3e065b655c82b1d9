from __future__ import annotations

import io
import logging
from collections.abc import Generator

import pytest
from celery import Celery
from opentelemetry import trace

from taskobs.celery.run_signals import current_run
from taskobs.observers.logs import LogFields
from tests.support.recording import Recorder, context_of

FORMAT = "%(task_name)s|%(task_id)s|%(trace_id)s|%(span_id)s|%(trace_flags)s|%(message)s"


@pytest.fixture
def logger() -> Generator[logging.Logger]:
    logger = logging.getLogger("shop")
    logger.propagate = False
    logger.setLevel(logging.INFO)  # whatever a worker in this process has set above it
    yield logger
    logger.setLevel(logging.NOTSET)
    logger.handlers.clear()
    logger.propagate = True


@pytest.fixture
def lines(logger: logging.Logger) -> Generator[io.StringIO]:
    """Give what a handler writes that the logger gets after the fields were installed."""
    before = logging.Logger.handle
    fields = LogFields(current_run)
    fields.install()
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter(FORMAT))
    logger.addHandler(handler)
    yield written
    fields.remove()
    fields.remove()
    assert logging.Logger.handle is before


def test_a_line_within_a_task_names_task_and_trace(
    app: Celery, spans: Recorder, logger: logging.Logger, lines: io.StringIO
) -> None:
    """Each line that my task logs says which task and which trace it belongs to."""

    @app.task(name="speak")
    def speak() -> None:
        logger.warning("hello")

    speak.apply(task_id="id-1")
    run = context_of(spans.one("run speak"))
    assert lines.getvalue() == (
        f"speak|id-1|{run.trace_id:032x}|{run.span_id:016x}|{run.trace_flags:02x}|hello\n"
    )


def test_a_line_outside_has_empty_fields(logger: logging.Logger, lines: io.StringIO) -> None:
    """A format that names the fields works outside of tasks too."""
    logger.warning("hello")
    assert lines.getvalue() == "|||||hello\n"


def test_a_line_in_a_span_but_no_task_names_the_trace(
    logger: logging.Logger, lines: io.StringIO
) -> None:
    """In a web request's span a line names the trace."""
    span = trace.NonRecordingSpan(
        trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1))
    )
    with trace.use_span(span):
        logger.warning("hello")
    assert lines.getvalue() == f"||{1:032x}|{2:016x}|01|hello\n"


def test_fields_of_my_own_stay(
    app: Celery, spans: Recorder, logger: logging.Logger, lines: io.StringIO
) -> None:
    """My own `extra={"task_id": ...}` neither crashes nor is overwritten."""

    @app.task(name="speak")
    def speak() -> None:
        logger.warning("hello", extra={"task_id": "mine", "trace_id": "mine too"})

    speak.apply().get()
    assert spans
    assert lines.getvalue().startswith("speak|mine|mine too|")
