"""Sentry Logs: the ids of the current span, and no arguments in the records of Celery's loggers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sentry_sdk.client import BaseClient

from taskobs.observers.sentry import redact
from taskobs.observers.sentry.celery_texts import (
    is_celery_logger,
    safe_message,
    without_arguments,
)
from taskobs.observers.sentry.run_events import active
from taskobs.sentry import _compat
from taskobs.sentry.trace_ids import current_span_ids

Log = dict[str, Any]
BeforeSend = Callable[[Log, dict[str, Any]], "Log | None"]

_OPTION: Final = "before_send_log"
_TEMPLATE: Final = "sentry.message.template"
_PARAMETER: Final = "sentry.message.parameter."
_SENSITIVE: Final = ("data", "args", "kwargs", "return_value")


class LogFilter:
    """Stands before a client's own ``before_send_log``, until ``remove``."""

    def __init__(self, *, send_arguments: bool) -> None:
        self._send_arguments = send_arguments
        self._before: list[tuple[BaseClient, object]] = []

    def install(self, client: BaseClient) -> None:
        """Pass the logs of a client from now on."""
        options = client.options
        if _OPTION not in options or isinstance(options[_OPTION], _BeforeSend):
            return
        given = options[_OPTION]
        theirs: BeforeSend | None = given or _compat.experiments(options).get(_OPTION)
        options[_OPTION] = _BeforeSend(theirs, send_arguments=self._send_arguments)
        self._before.append((client, given))

    def remove(self) -> None:
        """Give the clients back what they had."""
        for client, given in self._before:
            client.options[_OPTION] = given
        self._before.clear()


class _BeforeSend:
    """A ``before_send_log`` that calls another. It is pickled as that one, with its client."""

    def __init__(self, theirs: BeforeSend | None, *, send_arguments: bool) -> None:
        self._theirs = theirs
        self._send_arguments = send_arguments

    def __call__(self, log: Log, hint: dict[str, Any]) -> Log | None:
        ids = current_span_ids()
        if ids is not None:
            log["trace_id"], log["span_id"] = ids
        if not self._send_arguments or _run_scrubs():
            _drop_arguments(log)
        return log if self._theirs is None else self._theirs(log, hint)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return _same, (self._theirs,)


def _run_scrubs() -> bool:
    run = active.get()
    return run is not None and run.scrubs


def _same(value: object) -> object:
    return value


def _drop_arguments(log: Log) -> None:
    attributes = redact.table(log.get("attributes"))
    if is_celery_logger(attributes.get("logger.name")):
        for name in _SENSITIVE:
            attributes.pop(name, None)
        _drop_parameters(log, attributes)
    for row in (log, attributes):
        for name, value in row.items():
            if isinstance(value, str):
                row[name] = without_arguments(value)


def _drop_parameters(log: Log, attributes: dict[str, object]) -> None:
    given = {
        name.removeprefix(_PARAMETER): value
        for name, value in attributes.items()
        if name.startswith(_PARAMETER)
    }
    numbered = all(name.isdecimal() for name in given)
    safe = safe_message(attributes.get(_TEMPLATE), () if numbered else given)
    if safe is None:
        return
    log["body"], kept = safe
    for name in given:
        del attributes[_PARAMETER + name]
    for name, value in redact.table(kept).items():
        attributes[_PARAMETER + name] = value
