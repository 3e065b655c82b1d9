"""What tests of an app use: the pytest fixture ``taskobs_telemetry`` gives a `Telemetry`.

Also the receiver of OTLP and Sentry's protocol, which the demo and our own tests use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from taskobs.testing.failures import (
        AmbiguousError,
        NotRecordedError,
        NotSettledError,
        UnexpectedTelemetryError,
    )
    from taskobs.testing.records import (
        Event,
        Log,
        Metric,
        Raised,
        TaskPublish,
        TaskRun,
        Trace,
    )
    from taskobs.testing.telemetry import Telemetry
    from taskobs.testing.wire import ReceivedSpan

__all__ = [
    "AmbiguousError",
    "Event",
    "Log",
    "Metric",
    "NotRecordedError",
    "NotSettledError",
    "Raised",
    "ReceivedSpan",
    "TaskPublish",
    "TaskRun",
    "Telemetry",
    "Trace",
    "UnexpectedTelemetryError",
]

# pytest imports this package in every run, for the plugin: a name is loaded when it is first used.
_HOMES: Final = {
    **dict.fromkeys(
        ("AmbiguousError", "NotRecordedError", "NotSettledError", "UnexpectedTelemetryError"),
        "taskobs.testing.failures",
    ),
    **dict.fromkeys(
        ("Event", "Log", "Metric", "Raised", "TaskPublish", "TaskRun", "Trace"),
        "taskobs.testing.records",
    ),
    "Telemetry": "taskobs.testing.telemetry",
    "ReceivedSpan": "taskobs.testing.wire",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")  # Python's own words
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
