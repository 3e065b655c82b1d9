"""Takes task arguments and results out of what Celery itself writes: log records and exceptions.

Celery logs each run's arguments and result, shows the body of a message that it can't handle, and
puts the arguments into the text of ``MaxRetriesExceededError``. Works on plain data: texts, and the
parameters of a log record as Sentry has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast

FILTERED: Final = "[Filtered]"

_SAFE_PARAMETERS: Final = frozenset(
    {"id", "name", "runtime", "exc", "description", "internal", "hostname", "traceback", "eta"}
)
"""The values of Celery's format strings that have neither arguments nor results in them."""
_SENSITIVE: Final = ("body", "args", "Task: %r")
"""Words of Celery's format strings with numbered values that are followed by arguments."""
_SHOWN: Final = r"(Task \S+\[[^\]]*\] succeeded in [\d.e-]+s): .*"
_TEXTS: Final = tuple(
    (mark, re.compile(pattern, re.DOTALL), shown)
    for mark, pattern, shown in (
        # Task.retry, when no retry is left
        ("Can't retry ", r"(Can't retry \S+\[[^\]]*\]) args:.*", r"\1"),
        # celery.app.trace, LOG_SUCCESS
        (" succeeded in ", _SHOWN, r"\1"),
        # celery.concurrency.base
        ("TaskPool: Apply ", r"(TaskPool: Apply \S+) \(args:.*", r"\1"),
        # celery.worker.consumer: messages that can't be handled
        (" of the message body was:", r"( of the message body was:).*", rf"\1 {FILTERED}"),
        ("Can't decode message body", r"(Can't decode message body.*?)\n\nbody: .*", r"\1"),
        # what Sentry shows of a Redis command, where the app allows it: a message, a result
        ('{"body": ', r'\{"body": .*', FILTERED),
        ("celery-task-meta-", r"(celery-task-meta-[\w-]+['\"]?) .*", r"\1"),
    )
)


def without_arguments(text: str) -> str:
    """Return a text as it is, or without the arguments and results that Celery put into it."""
    for mark, pattern, shown in _TEXTS:
        if mark in text:
            text = pattern.sub(shown, text)
    return text


def is_celery_logger(name: object) -> bool:
    """Tell whether a log record is Celery's, by the name of its logger."""
    return isinstance(name, str) and (name == "celery" or name.startswith("celery."))


def safe_parameters(parameters: Mapping[str, object]) -> dict[str, object]:
    """Return the values for a format string of Celery's, arguments and results replaced."""
    return {
        name: value if name in _SAFE_PARAMETERS else FILTERED for name, value in parameters.items()
    }


def safe_message(template: object, parameters: object) -> tuple[str, object] | None:
    """Write a record of Celery's anew: its text and its parameters.

    None if it can stay as it is.
    """
    if isinstance(parameters, Mapping) and parameters:
        kept = safe_parameters(cast("Mapping[str, object]", parameters))
        return _formatted(str(template), kept), kept
    if any(word in str(template) for word in _SENSITIVE):
        return str(template), ()
    return None


def _formatted(template: str, parameters: Mapping[str, object]) -> str:
    try:
        return template % parameters
    except (KeyError, TypeError, ValueError):  # %(runtime)f of an app's own format, for one
        return template
