"""Where the demo's telemetry goes, and whether anybody listens there."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

OTLP_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
DEFAULT_PORTS = {"http": 80, "https": 443}
REACH_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where telemetry goes: the receiver here, or what the user's variables name."""

    otlp: str | None
    """The user's OTLP endpoint, or None for the receiver."""
    sentry: str | None
    """The user's DSN, or None for the receiver; a secret."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Target:
        """Read the variables."""
        named = [environment[name] for name in OTLP_VARIABLES if environment.get(name)]
        return cls(otlp=named[0] if named else None, sentry=environment.get("SENTRY_DSN") or None)


def warn_of_silence(target: Target) -> None:
    """Say at once when nothing listens where the user's variables point."""
    for variable, address in ((OTLP_VARIABLES[0], target.otlp), ("SENTRY_DSN", target.sentry)):
        server = address_in(address or "")
        if server is None:
            continue
        try:
            socket.create_connection(server, timeout=REACH_TIMEOUT).close()
        except OSError:
            where = f"{server[0]}:{server[1]}"  # no more of it: it may hold a password
            text = f"  ! nothing answers at {where} ({variable}); unset it to see all of it here"
            click.echo(click.style(text, fg="yellow"))


def address_in(address: str) -> tuple[str, int] | None:
    """Host and port of an address; None where it does not say, which is for init() to refuse."""
    try:
        parts = urlsplit(address)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None
