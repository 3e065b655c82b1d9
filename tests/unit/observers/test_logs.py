from __future__ import annotations

import io
import logging
import logging.handlers
import queue
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

import pytest
from celery import Celery
from opentelemetry import trace

from taskobs.celery.active import current_run
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


Handler: TypeAlias = "logging.StreamHandler[io.StringIO]"  # no generic before Python 3.11


@pytest.fixture
def handler(logger: logging.Logger) -> Generator[Handler]:
    """Give a handler that the logger gets after the fields were installed."""
    patched = (logging.Logger, "handle"), (logging.Handler, "handle"), (logging.Formatter, "format")
    before = [getattr(*each) for each in patched]
    fields = LogFields(current_run)
    fields.install()
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter(FORMAT))
    logger.addHandler(handler)
    yield handler
    fields.remove()
    fields.remove()
    assert [getattr(*each) for each in patched] == before


@pytest.fixture
def lines(handler: Handler) -> io.StringIO:
    """Give what that handler writes."""
    return handler.stream


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


# Records that pass by the loggers of `logging`.


class OwnLogger(logging.Logger):
    """A logger that calls the handlers by itself, as absl's does."""

    def handle(self, record: logging.LogRecord) -> None:
        self.callHandlers(record)


def through_own_logger(handler: Handler) -> None:
    logger = OwnLogger("own")
    logger.addHandler(handler)
    logger.warning("hello")


def through_absl(handler: Handler) -> None:
    absl_logging = pytest.importorskip("absl.logging")
    logger = absl_logging.ABSLLogger("absl")
    logger.addHandler(handler)
    logger.warning("hello")


def a_record() -> logging.LogRecord:
    return logging.makeLogRecord({"msg": "hello", "levelno": logging.WARNING})


def write_formatted(handler: Handler) -> None:
    handler.stream.write(handler.format(a_record()) + "\n")


PAST_LOGGERS: dict[str, Callable[[Handler], object]] = {
    "a logger of my own class": through_own_logger,
    "absl's logger": through_absl,
    "a handler": lambda handler: handler.handle(a_record()),
    "a handler's emit": lambda handler: handler.emit(a_record()),
    "a handler's format": write_formatted,
}


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("way", PAST_LOGGERS)
def test_a_line_that_passes_by_the_loggers_has_the_fields(
    request: pytest.FixtureRequest,
    handler: Handler,
    capsys: pytest.CaptureFixture[str],
    way: str,
    *,
    within: bool,
) -> None:
    """However a record reaches a handler, a format that names the fields writes its line."""
    if within:
        app: Celery = request.getfixturevalue("app")
        spans: Recorder = request.getfixturevalue("spans")

        @app.task(name="speak")
        def speak() -> None:
            PAST_LOGGERS[way](handler)

        speak.apply(task_id="id-1")
        run = context_of(spans.one("run speak"))
        ids = f"speak|id-1|{run.trace_id:032x}|{run.span_id:016x}|{run.trace_flags:02x}"
    else:
        PAST_LOGGERS[way](handler)
        ids = "||||"
    assert handler.stream.getvalue() == f"{ids}|hello\n"
    assert "Logging error" not in capsys.readouterr().err


def test_a_queue_keeps_the_ids_of_the_task_that_has_logged(
    app: Celery, spans: Recorder, logger: logging.Logger, handler: Handler
) -> None:
    """A `QueueListener` writes the line in a thread of its own."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    logger.handlers[:] = [logging.handlers.QueueHandler(waiting)]
    listener = logging.handlers.QueueListener(waiting, handler)
    listener.start()

    @app.task(name="speak")
    def speak() -> None:
        logger.warning("hello")

    speak.apply(task_id="id-1")
    listener.stop()
    run = context_of(spans.one("run speak"))
    assert handler.stream.getvalue().startswith(f"speak|id-1|{run.trace_id:032x}|")


def test_a_filter_for_sampled_traces(logger: logging.Logger, handler: Handler) -> None:
    """The last bit of `trace_flags` says it, whatever other flags there are."""
    handler.addFilter(lambda record: record.__dict__["trace_flags"] in {"01", "03"})
    for flags in range(4):
        context = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(flags))
        with trace.use_span(trace.NonRecordingSpan(context)):
            logger.warning("flags %s", flags)
    logger.warning("outside")
    written = [line.rpartition("|")[2] for line in handler.stream.getvalue().splitlines()]
    assert written == ["flags 1", "flags 3"]
