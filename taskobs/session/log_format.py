"""Log lines as JSON: a formatter for an app's own handlers, and ``init(log_format="json")``."""

from __future__ import annotations

from typing import Any

from taskobs.celery.active import current_run
from taskobs.observers.json_logs import JsonLines
from taskobs.session.session import current_service


class JsonFormatter(JsonLines):
    """A formatter of ``logging``: one JSON object a line, with the ids of task and trace.

    The fields are those of OpenTelemetry's log data model. ``init(log_format="json")`` sets it on
    the handlers of workers and beat; elsewhere, and in a configuration of one's own, name it:
    ``{"()": "taskobs.JsonFormatter"}``. What else a configuration gives a formatter is ignored.
    """

    def __init__(self, *_: Any, **__: Any) -> None:  # noqa: ANN401  # those of logging.Formatter
        super().__init__(current_run, current_service)
