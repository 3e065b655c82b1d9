"""Ids in logging libraries that do not use the records of `logging`."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Generator
from typing import Any

import pytest
from celery import Celery

import taskobs
from taskobs.celery.active import current_run
from taskobs.observers.logs import LogFields
from tests.support.recording import Recorder, context_of

structlog: Any = pytest.importorskip("structlog")
loguru: Any = pytest.importorskip("loguru")


def leave(_: object) -> None: ...


@pytest.fixture(autouse=True)
def defaults() -> Generator[None]:
    """Leave both libraries as they were."""
    yield
    structlog.reset_defaults()
    loguru.logger.configure(handlers=[], extra={}, patcher=leave)


@pytest.fixture
def installed() -> Generator[None]:
    """Add the fields to records of `logging`, as `init()` does."""
    fields = LogFields(current_run)
    fields.install()
    yield
    fields.remove()


def ids(spans: Recorder) -> dict[str, str]:
    run = context_of(spans.one("run speak"))
    return {
        "task_id": "id-1",
        "task_name": "speak",
        "trace_id": f"{run.trace_id:032x}",
        "span_id": f"{run.span_id:016x}",
        "trace_flags": f"{run.trace_flags:02x}",
    }


def test_structlog_prints_the_ids(
    app: Celery, spans: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    """One processor in my chain, and each event of a task has its ids; others have none."""
    structlog.configure(
        processors=[taskobs.log_fields, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    log = structlog.get_logger()

    @app.task(name="speak")
    def speak() -> None:
        log.warning("hello", order=7)
        log.warning("mine", task_id="mine")

    speak.apply(task_id="id-1")
    log.warning("outside")
    hello, mine, outside = map(json.loads, capsys.readouterr().out.splitlines())
    assert hello == {"event": "hello", "order": 7, **ids(spans)}
    assert mine == {"event": "mine", **ids(spans), "task_id": "mine"}
    assert outside == {"event": "outside"}


def test_structlog_through_logging_has_the_ids(
    app: Celery, spans: Recorder, installed: None
) -> None:
    """So it is in the set-up of structlog's documentation, where `logging` writes the lines."""
    assert installed is None
    shared: list[Any] = [structlog.stdlib.add_log_level, taskobs.log_fields]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logger = logging.getLogger("shop.structlog")
    logger.propagate = False
    logger.addHandler(handler)

    @app.task(name="speak")
    def speak() -> None:
        structlog.get_logger("shop.structlog").warning("of structlog")
        logger.warning("of logging")

    try:
        speak.apply(task_id="id-1")
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    events = [json.loads(line) for line in written.getvalue().splitlines()]
    assert events == [
        {"event": "of structlog", "level": "warning", **ids(spans)},
        {"event": "of logging", "level": "warning", **ids(spans)},
    ]


def test_loguru_has_the_ids(app: Celery, spans: Recorder) -> None:
    """One patcher, and my format may name the fields, in a task and outside."""
    written = io.StringIO()
    form = "{extra[task_name]}|{extra[task_id]}|{extra[trace_id]}|{message}"
    loguru.logger.configure(
        handlers=[{"sink": written, "format": form}], patcher=taskobs.log_fields
    )

    @app.task(name="speak")
    def speak() -> None:
        loguru.logger.warning("hello")
        loguru.logger.bind(task_id="mine").warning("mine")

    speak.apply(task_id="id-1")
    loguru.logger.warning("outside")
    trace_id = ids(spans)["trace_id"]
    assert written.getvalue().splitlines() == [
        f"speak|id-1|{trace_id}|hello",
        f"speak|mine|{trace_id}|mine",
        "|||outside",
    ]


def test_a_filter_adds_the_ids_without_a_session(app: Celery, spans: Recorder) -> None:
    """With `log_ids=False` I add them where I want them."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(task_id)s|%(message)s"))
    handler.addFilter(taskobs.log_fields)
    logger = logging.getLogger("shop.filtered")
    logger.propagate = False
    logger.addHandler(handler)

    @app.task(name="speak")
    def speak() -> None:
        logger.warning("hello")

    try:
        speak.apply(task_id="id-1")
        logger.warning("outside")
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    assert written.getvalue() == "id-1|hello\n|outside\n"
    assert spans


def test_the_fields_by_themselves(app: Celery, spans: Recorder) -> None:
    """For whatever else writes my logs."""
    seen: list[dict[str, str]] = []

    @app.task(name="speak")
    def speak() -> None:
        seen.append(taskobs.log_fields())

    speak.apply(task_id="id-1")
    assert seen == [ids(spans)]
    assert set(taskobs.log_fields().values()) == {""}
