"""Exports the app's own metrics and logs at the end of a pool child, where they would be lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from opentelemetry import metrics

from taskobs.otel._sdk_compat import logger_provider

_MILLISECONDS: Final = 1000


@runtime_checkable
class _Flushable(Protocol):
    def force_flush(self, timeout_millis: float = 30_000) -> bool: ...


def flushes_of_app(timeout: float) -> list[Callable[[], object]]:
    """Return the calls that export what the app's meter and logger providers hold.

    A pool child leaves through ``os._exit``: the exit hooks of the SDK don't run there.
    """
    found = (metrics.get_meter_provider(), logger_provider())
    return [_flush_of(one, timeout) for one in found if isinstance(one, _Flushable)]


def _flush_of(provider: _Flushable, timeout: float) -> Callable[[], object]:
    return lambda: provider.force_flush(timeout * _MILLISECONDS)


def app_meters() -> str | None:
    """Return the name of a meter provider that the app has set, for the log; None without one."""
    # The API's own, which do nothing, have nothing to flush.
    return (
        "the app's MeterProvider" if isinstance(metrics.get_meter_provider(), _Flushable) else None
    )
