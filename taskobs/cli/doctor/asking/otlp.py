"""Asks OTLP endpoints, with the exporters and settings that a worker's relay has."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan

from taskobs.cli.doctor.asking.waiting import TIMED_OUT, within_time
from taskobs.cli.doctor.evidence import Response
from taskobs.config.settings import Settings
from taskobs.internal.causes import describe
from taskobs.otel.app._compat import processors_of
from taskobs.otel.app.exporters import settings_of
from taskobs.protocol.frames import unpack
from taskobs.relay.export.otlp import ExporterAdapter, make_exporter_adapter
from taskobs.relay.export.responses import ExportResult, ExportStatus, of_error
from taskobs.session.metrics.direct_metrics import exporter_options

_LOGGERS: Final = ("opentelemetry.exporter", "urllib3", "requests", "grpc")
_TIMEOUT: Final = 5.0


def ask_traces(settings: Settings, span: ReadableSpan) -> Response:
    """Send one span as the settings say."""
    options = {**exporter_options(settings), "timeout": _TIMEOUT}
    return Response("traces", settings.shown_endpoint, _send("TRACES", options, [span]))


def ask_provider(provider: object, span: ReadableSpan) -> list[Response]:
    """Send one span as each OTLP exporter of the app's provider would."""
    packed = filter(None, map(settings_of, processors_of(provider)))
    found: list[dict[str, Any]] = [dict(unpack(one)) for one in dict.fromkeys(packed)]
    return [
        Response("traces", str(one.get("endpoint") or ""), _send("TRACES", one, [span]))
        for one in found
    ]


def ask_metrics(settings: Settings) -> Response:
    """Send a request with no metric in it."""
    options = {**exporter_options(settings), "timeout": _TIMEOUT}
    if "endpoint" in options:
        options["endpoint"] = settings.metrics_endpoint
    nothing = MetricsData(resource_metrics=[])
    url = settings.metrics_endpoint or ""
    return Response("metrics", url, _send("METRICS", options, nothing))


def ask_logs(settings: Settings) -> Response:
    """Send a request with no log record in it."""
    options = {**exporter_options(settings), "timeout": _TIMEOUT}
    options["protocol"] = settings.logs_protocol
    if "endpoint" in options:
        options["endpoint"] = settings.logs_endpoint
    return Response("logs", settings.logs_endpoint or "", _send("LOGS", options, []))


def _send(signal: str, options: Mapping[str, Any], telemetry: object) -> ExportResult:
    try:
        adapter = make_exporter_adapter(signal, options)  # before the time counts: it imports
    except Exception as error:  # noqa: BLE001  # whatever an exporter says of its variables
        return ExportResult(ExportStatus.DROP, "there is no exporter", describe(error))
    return within_time(lambda: _send_once(adapter, telemetry), TIMED_OUT)


def _send_once(adapter: ExporterAdapter, telemetry: object) -> ExportResult:
    try:
        result = adapter.send(telemetry)
    except Exception as error:  # noqa: BLE001  # whatever an exporter may raise
        return of_error(error)
    finally:
        adapter.close()
    return result or ExportResult(ExportStatus.DROP, "the exporter sent nothing")


@contextmanager
def quiet() -> Generator[None]:
    """Keep what the libraries log of each attempt out of the output: its result says it."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
