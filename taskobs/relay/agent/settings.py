"""The relay's settings: JSON that the worker writes to the relay's standard input."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from taskobs.protocol.held_spans import rules
from taskobs.protocol.held_spans.rules import KeepRules

GRACE: Final = 10.0
MAX_CONFIGURATION: Final = 1024 * 1024


class ConfigurationError(ValueError):
    """The settings aren't those of this release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """Settings of one relay; all others are in the environment, under ``OTEL_*``."""

    worker: str = ""
    """The worker's node name, ``celery@host``."""
    service: str = ""
    """What the worker's service is called where its resource does not say so."""
    parent: int = 0
    """The process id of the worker's parent process."""
    protocol: str = "http/protobuf"
    endpoint: str | None = None
    """Where spans go, and the headers to send: only what was given as an argument."""
    headers: Mapping[str, str] | None = None
    logs: Mapping[str, Any] | None = None
    """How log records are exported, as spans are; None if they aren't."""
    spool: Mapping[str, object] | None = None
    """``{"directory", "bytes", "age"}``; None keeps what waits in memory."""
    keep: KeepRules = rules.KEEP_NOTHING
    """Which runs are kept though their trace is not sampled."""
    serve: Mapping[str, object] | None = None
    """``{"address", "port"}``: where metrics are served to Prometheus; None if they are not."""
    grace: float = GRACE
    """Seconds for sending what waits after the worker has ended."""
    log_level: int = logging.WARNING
    """The worker's, as a number of ``logging``."""


def parse(text: bytes | str, *, worker: str = "") -> RelaySettings:
    """Read a configuration; empty gives the defaults. Unknown names are ignored.

    Raises:
        ConfigurationError: a value is not allowed.
    """
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the configuration is no JSON: {error}") from error
    given = _map(found, "the configuration")
    exporter = _map(given.get("exporter") or {}, "exporter")
    headers = exporter.get("headers")
    logs, spool, serve = given.get("logs"), given.get("spool"), given.get("serve")
    return RelaySettings(
        worker=str(given.get("worker") or worker),
        service=str(given.get("service") or ""),
        parent=int(_number(given, "parent", os.getppid())),
        protocol=str(exporter.get("protocol") or "http/protobuf"),
        endpoint=_text(exporter.get("endpoint")),
        headers=None if headers is None else _headers(headers),
        logs=None if logs is None else _map(logs, "logs"),
        spool=None if spool is None else _map(spool, "spool"),
        keep=_rules(given.get("keep") or ()),
        serve=None if serve is None else _map(serve, "serve"),
        grace=_number(given, "grace", GRACE),
        log_level=int(_number(given, "log_level", logging.WARNING)),
    )


def _map(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{name}: a map is needed, not {type(value).__name__}")
    return cast("Mapping[str, Any]", value)


def _headers(value: object) -> Mapping[str, str]:
    return {str(name): str(text) for name, text in _map(value, "exporter.headers").items()}


def _rules(value: Iterable[object]) -> KeepRules:
    try:
        return rules.parse(map(str, value))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"keep: {error} is no rule") from error


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _number(given: Mapping[str, Any], name: str, default: float) -> float:
    value = given.get(name)
    if value is None:
        return default
    # ``bool`` is a subclass of ``int``; NaN, which JSON may hold, is not ``>= 0``.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ConfigurationError(f"{name}: {value!r} is no number of zero or more")
    return value
