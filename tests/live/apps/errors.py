"""The shop of somebody who uses Sentry himself, in all the ways that there are."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sentry_sdk
from celery import Task, signals
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.scope import add_global_event_processor

OPTIONS: dict[str, Any] | None = json.loads(os.environ.get("APP_SENTRY", "null"))
if OPTIONS is not None:
    if "event_level" in OPTIONS:
        OPTIONS["integrations"] = [LoggingIntegration(event_level=OPTIONS.pop("event_level"))]
    sentry_sdk.init(dsn=os.environ["APP_SENTRY_DSN"], **OPTIONS)

from tests.live.apps.shop import *  # noqa: E402, F403  # it calls taskobs.init()
from tests.live.apps.shop import PATIENCE  # noqa: E402
from tests.live.apps.shop import app as app  # noqa: E402, PLC0414

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger("shop")
structured = logging.getLogger("shop.structured")


class DeclinedError(Exception):
    """What a payment may end with."""


def _decline() -> None:
    msg = "card declined"
    raise DeclinedError(msg)


@app.task
def logs_and_raises() -> None:
    """Log the failure, and fail by it."""
    try:
        _decline()
    except DeclinedError:
        log.exception("payment failed")
        raise


@app.task
def captures_and_raises() -> None:
    """Capture the failure, and fail by it."""
    try:
        _decline()
    except DeclinedError as error:
        sentry_sdk.capture_exception(error)
        raise


class Capturing(Task):  # type: ignore[type-arg]  # Celery's own has no parameters
    """Captures each failure of a task, in its hook."""

    def on_failure(self, exc: BaseException, *_: Any, **__: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # it takes all
        """Capture what Celery hands over."""
        sentry_sdk.capture_exception(exc)


class CapturingCall(Task):  # type: ignore[type-arg]  # as above
    """Captures each failure of a task, around its body."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body."""
        run: Any = super().__call__
        try:
            return run(*args, **kwargs)
        except Exception as error:
            sentry_sdk.capture_exception(error)
            raise


@app.task(base=Capturing)
def captured_by_its_hook() -> None:
    """Fail."""
    _decline()


@app.task(base=CapturingCall)
def captured_by_its_call() -> None:
    """Fail."""
    _decline()


@app.task
def handles_and_holds(folder: str) -> str:
    """Capture an exception, handle it, and stay until there is a file."""
    try:
        _decline()
    except DeclinedError as error:
        sentry_sdk.capture_exception(error)
    deadline = time.monotonic() + PATIENCE
    while not Path(folder, "go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return "held"


@app.task
def uses_threads() -> None:
    """Capture a message in a thread, and one in an executor."""
    thread = threading.Thread(target=sentry_sdk.capture_message, args=("in a thread",))
    thread.start()
    thread.join()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(sentry_sdk.capture_message, "in an executor").result()


@app.task(bind=True, max_retries=0)
def gives_up(self: Any, card: str) -> None:
    """Ask for one retry too many."""
    assert card
    raise self.retry(countdown=0)


@app.task
def fails_with(message: str) -> None:
    """Fail with this message."""
    raise DeclinedError(message)


@app.task
def fails_by_surrogates() -> None:
    """Fail with the name of a file that isn't UTF-8."""
    raise FileNotFoundError(os.fsdecode(b"caf\xe9.txt"))


@app.task
def fails_at_length(characters: int) -> None:
    """Fail with a message that long."""
    raise DeclinedError("x" * characters)


@app.task
def echo_and_log(card: str) -> str:
    """Give what it got, and fail to keep it from Celery's log."""
    log.error("an error of mine")
    return card


@app.task
def fails_and_calls() -> None:
    """Publish a task that fails, and fail."""
    fails_with.delay("the second")
    msg = "the first"
    raise DeclinedError(msg)


@app.task
def out_of_memory() -> None:
    """Have no memory left."""
    raise MemoryError


if os.environ.get("APP_TAGS_AS_PAIRS"):

    @add_global_event_processor
    def _pairs(event: Any, hint: Mapping[str, Any]) -> Any:
        assert hint is not None
        tags: dict[str, str] = event.get("tags") or {}
        event["tags"] = [["mine", "yes"], *tags.items()]
        return event


if os.environ.get("APP_LOGURU"):
    import loguru

    class Intercept(logging.Handler):
        """Passes all records on to loguru, as its documentation says."""

        def emit(self, record: logging.LogRecord) -> None:
            """Pass one on."""
            to = loguru.logger.opt(depth=6, exception=record.exc_info)
            to.log(record.levelname, record.getMessage())

    @signals.setup_logging.connect
    def _set_up_logging(**_: object) -> None:
        logging.basicConfig(handlers=[Intercept()], level=logging.INFO, force=True)


if os.environ.get("APP_STRUCTURED"):

    @signals.task_failure.connect
    def _task_failed(
        task_id: str, exception: BaseException, args: Sequence[object], **_: object
    ) -> None:
        """Log each failure as django-structlog does."""
        assert args is not None
        if os.environ["APP_STRUCTURED"] == "exc_info":
            structured.error("task_failed", exc_info=exception, extra={"task_id": task_id})
        else:
            structured.error({"event": "task_failed", "task_id": task_id, "error": str(exception)})
