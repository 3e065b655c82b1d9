"""Who is connected to Celery's signals."""

# Celery ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any, Final
from weakref import ReferenceType

from celery.utils.dispatch import Signal

_LIBRARIES: Final = ("celery.", "kombu.", "billiard.", "taskobs.", "opentelemetry.", "sentry_sdk.")


def receivers(signal: Signal) -> list[Any]:
    """Return the functions that are connected."""
    entries: list[Any] = list(signal.receivers or ())
    found = [ref() if isinstance(ref, ReferenceType) else ref for _, ref in entries]
    return [one for one in found if one is not None]


def of_app(signal: Signal) -> list[str]:
    """Return the names of the app's own receivers."""
    return [
        f"{_module(one)}.{getattr(one, '__qualname__', type(one).__name__)}"
        for one in receivers(signal)
        if not f"{_module(one)}.".startswith(_LIBRARIES)
    ]


def of_module(signal: Signal, prefix: str) -> bool:
    """Tell whether a receiver of a package is connected."""
    return any(f"{_module(one)}.".startswith(f"{prefix}.") for one in receivers(signal))


def _module(receiver: object) -> str:
    return str(getattr(receiver, "__module__", None) or type(receiver).__module__)
