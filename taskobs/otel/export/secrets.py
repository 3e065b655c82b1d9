"""What a backend could repeat of what it is sent, and no line of the log may show."""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import unquote

from taskobs.config.settings import Settings
from taskobs.internal.causes import secrets_of_headers, secrets_of_url

_VARIABLES: Final = tuple(
    f"OTEL_EXPORTER_OTLP_{signal}HEADERS" for signal in ("", "TRACES_", "METRICS_", "LOGS_")
)
"""Those that the exporters read by themselves."""


def secrets_of(settings: Settings) -> frozenset[str]:
    """Return the values of headers, and what is secret in the endpoints' URLs."""
    headers = list((settings.otlp_headers or {}).items())
    for pair in ",".join(os.environ.get(name, "") for name in _VARIABLES).split(","):
        name, _, value = pair.partition("=")
        headers.append((name.strip(), unquote(value.strip())))
    endpoints = (settings.traces_endpoint, settings.metrics_endpoint, settings.logs_endpoint)
    in_urls = (secret for url in endpoints if url for secret in secrets_of_url(url))
    return frozenset({*secrets_of_headers(headers), *in_urls})
