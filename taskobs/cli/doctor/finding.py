"""What a check has found: how it stands, what is so, and the line that mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from taskobs.cli.doctor.evidence import Evidence


class Status(str, Enum):
    """How a check has ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as well as it could."""
    BROKEN = "broken"
    """Telemetry is lost, or its parts are not linked."""
    UNKNOWN = "unknown"
    """It could not be found out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check. ``fix`` is a line to write, or what to do in a few words."""

    status: Status
    what: str
    fix: str = ""


class Check(NamedTuple):
    """One check: its name, the claim that it examines, and the function that does."""

    name: str
    claim: str
    examine: Callable[[Evidence], Finding]


def ok(what: str) -> Finding:
    """Find that the claim holds."""
    return Finding(Status.OK, what)


def warning(what: str, fix: str) -> Finding:
    """Find something that works, but should be changed."""
    return Finding(Status.WARNING, what, fix)


def broken(what: str, fix: str) -> Finding:
    """Find that the claim does not hold."""
    return Finding(Status.BROKEN, what, fix)


def unknown(what: str) -> Finding:
    """Find that it can't be told, and why."""
    return Finding(Status.UNKNOWN, what)
