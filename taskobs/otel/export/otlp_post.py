"""Sends one OTLP request over plain HTTP.

OpenTelemetry's exporter and its HTTP client take 60 ms to import, and Python's own takes 3.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from socket import create_connection
from typing import IO, Any, Final
from urllib.parse import urlsplit

_ACCEPTED: Final = rb"HTTP/1\.[01] 2\d\d\b"
_INTERIM: Final = rb"HTTP/1\.1 1\d\d\b"
"""What may come before the answer, also where it was not asked for (RFC 9110, 15.2)."""
_LINE_BYTES: Final = 1_024
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
    """Send a request with ``headers``, whose names are in lower case; tell if it was accepted.

    Raises:
        OSError: there was no answer.
        ValueError: the address or a header is not ASCII.
    """
    url = urlsplit(endpoint)
    path = url.path or "/"
    fields = {
        "host": url.netloc,
        **headers,
        "content-type": "application/x-protobuf",
        "content-length": str(len(body)),
        "connection": "close",
    }
    head = [f"POST {path}?{url.query} HTTP/1.1" if url.query else f"POST {path} HTTP/1.1"]
    head += [f"{name}: {value}" for name, value in fields.items()]
    request = "\r\n".join([*head, "", ""]).encode("ascii") + body
    # As bytes: for text, Python imports the tables of internationalized names (seen in 3.11).
    address: Any = (url.hostname or "").encode("ascii"), url.port or 80
    with create_connection(address, timeout) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            return re.match(_ACCEPTED, _status(answer)) is not None


def _status(answer: IO[bytes]) -> bytes:
    """Return the first line of an answer; what follows it is not read."""
    line = answer.readline(_LINE_BYTES)
    while re.match(_INTERIM, line):
        while line.strip():
            line = answer.readline(_LINE_BYTES)
        line = answer.readline(_LINE_BYTES)
    return line
