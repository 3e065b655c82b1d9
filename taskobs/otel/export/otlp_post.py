"""Sends one OTLP request over plain HTTP, without OpenTelemetry's exporter and its HTTP client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import Final
from urllib.parse import urlsplit

_TIMEOUT: Final = 10.0
"""Seconds, as the exporter's own default."""
_OURS: Final = frozenset(
    {
        *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        *("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
        *("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
    }
)
"""Variables of the exporter that are heeded here."""
_OTHERS: Final = ("OTEL_EXPORTER_OTLP_", "OTEL_PYTHON_EXPORTER_OTLP_", "OTEL_PYTHON_SDK_INTERNAL_")
_OF_METRICS: Final = "OTEL_EXPORTER_OTLP_METRICS_"


def suits(endpoint: str) -> bool:
    """Tell whether what the exporter would do can be done here: plain HTTP, without options."""
    if not endpoint.startswith("http://") or "@" in endpoint:
        return False
    for name, value in os.environ.items():
        of_exporter = name.startswith(_OTHERS) and not name.startswith(_OF_METRICS)
        if value and ((of_exporter and name not in _OURS) or name.lower().endswith("proxy")):
            return False
    return True


def post(endpoint: str, headers: Mapping[str, str], body: bytes, timeout: float = _TIMEOUT) -> bool:
    """Send a request; tell whether it was accepted.

    Raises:
        OSError, HTTPException: there was no answer.
    """
    url = urlsplit(endpoint)
    connection = HTTPConnection(url.hostname or "", url.port, timeout=timeout)
    try:
        path = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
        kind = {"Content-Type": "application/x-protobuf"}
        connection.request("POST", path, body, {**kind, **headers})
        return 200 <= connection.getresponse().status < 300  # noqa: PLR2004  # success
    finally:
        connection.close()
