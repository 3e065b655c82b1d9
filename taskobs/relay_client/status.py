"""Asks the relays of this user's workers what they count, for ``taskobs status``."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, cast

from taskobs.internal import pids
from taskobs.protocol.frames import FrameError, FrameKind, Splitter, encode, unpack
from taskobs.relay_client import socket_directory

PATIENCE: Final = 2.0
"""Seconds that one relay gets to reply."""
_CHUNK: Final = 65_536
_SHOWN_KINDS: Final = ("span", "envelope", "log")
_COLUMNS: Final = (
    *("WORKER", "SERVICE", "PID", "AGE", "PROCESSES", "OPEN", "SENT", "WAITING", "RETRIED"),
    *("SPOOLED", "LOST", "DROPPED"),
)
_UNITS: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


@dataclass(frozen=True, slots=True)
class Status:
    """One worker's relay: what it counts, or why it did not reply."""

    worker_pid: int
    address: str
    reply: Mapping[str, Any]
    problem: str = ""

    @property
    def age(self) -> float | None:
        """For how many seconds the worker has been running; None if that can't be told."""
        return pids.age(self.worker_pid)

    def as_json(self) -> dict[str, object]:
        """Return everything in a form that JSON can hold."""
        result: dict[str, object] = {"worker_pid": self.worker_pid, "address": self.address}
        if self.problem:
            result["problem"] = self.problem
        return {**result, "age": self.age, **self.reply}


def every(environ: Mapping[str, str], timeout: float = PATIENCE) -> list[Status]:
    """Ask all relays of this user; each gets ``timeout`` seconds."""
    return [_status(pid, address, timeout) for pid, address in socket_directory.addresses(environ)]


def _status(pid: int, address: str, timeout: float) -> Status:
    try:
        return Status(pid, address, ask(address, timeout))
    except TimeoutError:
        return Status(pid, address, {}, "it gave no answer")
    except (OSError, FrameError) as error:
        return Status(pid, address, {}, str(error))


def ask(address: str, timeout: float = PATIENCE) -> dict[str, Any]:
    """Return the counters of the relay at an address.

    Raises:
        OSError: there is none, or it did not reply within ``timeout`` seconds.
        FrameError: its reply can't be read.
    """
    end = time.monotonic() + timeout
    splitter = Splitter()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
        wire.settimeout(timeout)
        wire.connect(address)
        wire.sendall(encode(FrameKind.STATUS))
        while True:
            wire.settimeout(max(0.001, end - time.monotonic()))
            data = wire.recv(_CHUNK)
            if not data:
                raise ConnectionResetError("it hung up")
            for kind, payload in splitter.feed(data):
                if kind is FrameKind.STATUS_REPLY:
                    return _map(unpack(payload))


def waiting(reply: Mapping[str, Any]) -> str:
    """Return what a relay has not sent yet, and why, in words: ``7 spans (no response)``."""
    failing: Mapping[str, str] = reply.get("failing") or {}
    pending: Mapping[str, int] = reply.get("pending") or {}
    return ", ".join(
        f"{number} {kind}{'s' * (number != 1)}" + (f" ({failing[kind]})" if kind in failing else "")
        for kind, number in pending.items()
        if number
    )


def _map(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FrameError("its answer is no map")
    return cast("dict[str, Any]", value)


def table(relays: Iterable[Status]) -> str:
    """Return a line for each relay, with what it dropped and why below it."""
    lines = [list(_COLUMNS)]
    notes: dict[int, list[str]] = {}
    for one in relays:
        lines.append(_line(one))
        notes[len(lines)] = _notes(one)
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    shown: list[str] = []
    for number, line in enumerate(lines, start=1):
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        shown += ["  ".join(cells).rstrip(), *(f"  {note}" for note in notes.get(number, ()))]
    return "\n".join(shown)


def _line(one: Status) -> list[str]:
    reply = one.reply
    process = [str(one.worker_pid), _as_text(one.age)]
    if one.problem:
        return ["?", "?", *process, *["-"] * (len(_COLUMNS) - 4)]
    numbers = [reply.get("clients", 0), _sum(reply.get("open")), *_counted(reply)]
    names = [str(reply.get(name) or "?") for name in ("worker", "service")]
    return [*names, *process, *map(str, numbers)]


def _as_text(age: float | None) -> str:
    """Return an age in the largest two units that it has, as ``3h12m``."""
    if age is None:
        return "?"
    seconds = int(age)
    for (unit, size), (part, smaller) in pairwise(_UNITS):
        if seconds >= size:
            return f"{seconds // size}{unit}{seconds % size // smaller}{part}"
    return f"{seconds}s"


def _counted(reply: Mapping[str, Any]) -> list[int]:
    """Sum spans, events and log records."""
    names = ("exported", "pending", "retried", "spooled", "lost", "dropped")
    return [_sum(_of_kinds(reply.get(name))) for name in names]


def _of_kinds(value: object) -> object:
    if not isinstance(value, dict):
        return value
    counts = cast("dict[str, object]", value)
    return {kind: counts[kind] for kind in _SHOWN_KINDS if kind in counts}


def _sum(value: object) -> int:
    if isinstance(value, dict):
        return sum(map(_sum, cast("dict[str, object]", value).values()))
    return int(value) if isinstance(value, (int, float)) else 0


def _notes(one: Status) -> list[str]:
    if one.problem:
        return [f"{one.address}: {one.problem}"]
    failing: Mapping[str, object] = one.reply.get("failing") or {}
    served = (
        [f"metrics for Prometheus at {one.reply['metrics']}"] if one.reply.get("metrics") else []
    )
    fails = [f"{kind} export fails: {reason}" for kind, reason in failing.items()]
    dropped = one.reply.get("dropped")
    if not isinstance(dropped, dict):
        return served + fails
    return (
        served
        + fails
        + [
            f"dropped {number} {kind}(s): {reason or 'no reason given'}"
            for kind, reasons in cast("dict[str, object]", dropped).items()
            for reason, number in _reasons(reasons)
        ]
    )


def _reasons(reasons: object) -> list[tuple[str, object]]:
    return list(cast("dict[str, object]", reasons).items()) if isinstance(reasons, dict) else []
