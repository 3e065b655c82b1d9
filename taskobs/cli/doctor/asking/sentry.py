"""Asks a Sentry whether it accepts a DSN, without making an event."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from taskobs.cli.doctor.asking.waiting import TIMED_OUT, within_time
from taskobs.cli.doctor.evidence import Response
from taskobs.relay.export.responses import ExportResult, ExportStatus
from taskobs.relay.export.sentry import SentryPoster
from taskobs.relay.export.sentry_dsn import DsnError, parse_dsn


def ask_errors(dsn: str, options: Mapping[str, Any]) -> Response:
    """Post an envelope with a client's report that it has dropped nothing."""
    try:
        poster = SentryPoster(dsn, options)
    except Exception as error:  # noqa: BLE001  # of the DSN, of urllib3, of a proxy's address
        said = str(error) if isinstance(error, DsnError) else type(error).__name__
        return Response("errors", "", ExportResult(ExportStatus.DROP, "it can't be used", said))
    try:
        result = within_time(lambda: poster.send(_envelope()), TIMED_OUT)
    finally:
        poster.close()
    parsed = parse_dsn(dsn)
    return Response("errors", f"{parsed.scheme}://{parsed.address}{parsed.path}", result)


def _envelope() -> bytes:
    report: dict[str, object] = {"timestamp": time.time(), "discarded_events": []}
    parts: tuple[dict[str, object], ...] = ({}, {"type": "client_report"}, report)
    return b"\n".join(json.dumps(part).encode() for part in parts) + b"\n"
