"""Make Celery observable with one line: ``taskobs.init()``, next to ``Celery(...)``.

PYTEST_DONT_REWRITE: pytest warns of a plugin's package that is imported before it is, as this one
by ``opentelemetry-instrument pytest``, unless it reads this word here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from taskobs.config.task_rules import TaskRule
    from taskobs.errors import ContextError, MissingExtraError, SettingError, TaskobsError
    from taskobs.model import Outcome, Publish, Run
    from taskobs.observers.hooks.protocols import PublishHook, RunHook
    from taskobs.observers.untraced import untraced
    from taskobs.otel.instrumentor import TaskInstrumentor
    from taskobs.session.api.context import context, set_context
    from taskobs.session.log_fields import log_fields
    from taskobs.session.log_format import JsonFormatter
    from taskobs.session.session import Session, init
    from taskobs.session.web_app import instrument_app

__version__ = "0.1.0"

__all__ = [
    "ContextError",
    "JsonFormatter",
    "MissingExtraError",
    "Outcome",
    "Publish",
    "PublishHook",
    "Run",
    "RunHook",
    "Session",
    "SettingError",
    "TaskInstrumentor",
    "TaskRule",
    "TaskobsError",
    "__version__",
    "context",
    "init",
    "instrument_app",
    "log_fields",
    "set_context",
    "untraced",
]

# `import taskobs` loads neither Celery nor an SDK: a name is loaded when it is first used.
_HOMES: Final = {
    "ContextError": "taskobs.errors",
    "JsonFormatter": "taskobs.session.log_format",
    "MissingExtraError": "taskobs.errors",
    "Outcome": "taskobs.model",
    "Publish": "taskobs.model",
    "PublishHook": "taskobs.observers.hooks.protocols",
    "Run": "taskobs.model",
    "RunHook": "taskobs.observers.hooks.protocols",
    "Session": "taskobs.session.session",
    "SettingError": "taskobs.errors",
    "TaskInstrumentor": "taskobs.otel.instrumentor",
    "TaskRule": "taskobs.config.task_rules",
    "TaskobsError": "taskobs.errors",
    "context": "taskobs.session.api.context",
    "init": "taskobs.session.session",
    "instrument_app": "taskobs.session.web_app",
    "log_fields": "taskobs.session.log_fields",
    "set_context": "taskobs.session.api.context",
    "untraced": "taskobs.observers.untraced",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")  # Python's own words
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
