"""What OpenTelemetry's environment variables say about how metrics are exported over OTLP."""

from __future__ import annotations

import os
from threading import TIMEOUT_MAX

from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE,
    OTEL_METRIC_EXPORT_INTERVAL,
)


def export_interval(default: float) -> float:
    """Return the seconds between two exports; a variable that is no time is ignored."""
    try:
        seconds = float(os.environ.get(OTEL_METRIC_EXPORT_INTERVAL, "")) / 1000
    except ValueError:
        return default
    return seconds if 0 < seconds <= TIMEOUT_MAX else default


def wants_delta() -> bool:
    """Tell whether sums are sent as what came since the last export, and not since the start."""
    wanted = os.environ.get(OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, "")
    return wanted.strip().lower() == "delta"
