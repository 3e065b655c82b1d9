"""Checks of the machine: releases, the relay, the broker, the result backend."""

from __future__ import annotations

import re
from typing import Final

from taskobs.cli.doctor.checks.configuration import NOT_IMPORTED
from taskobs.cli.doctor.evidence import Connection, Evidence
from taskobs.cli.doctor.finding import Finding, broken, ok, unknown, warning

Range = tuple[tuple[int, int], tuple[int, int]]
TESTED: Final[dict[str, Range]] = {
    "Python": ((3, 10), (3, 13)),
    "celery": ((5, 3), (5, 7)),
    "opentelemetry-api": ((1, 28), (1, 45)),
    "opentelemetry-sdk": ((1, 28), (1, 45)),
    "opentelemetry-instrumentation-celery": ((0, 49), (0, 66)),
    "sentry-sdk": ((2, 45), (2, 75)),
    "wrapt": ((1, 14), (2, 5)),
    "click": ((8, 1), (8, 5)),
    "msgpack": ((1, 1), (1, 2)),
}
"""The oldest and the newest release of each package that taskobs is tested with."""


def versions(evidence: Evidence) -> Finding:
    """Look whether taskobs is tested with the releases that are installed."""
    for name, text in evidence.versions.items():
        oldest, newest = TESTED[name]
        found = _release(text)
        if found > newest and not _is_beta(name, text):
            what = f"{name} {text} is newer than {_text(newest)}, the newest that is tested"
            return warning(what, _install(name, f"<{newest[0]}.{newest[1] + 1}"))
        if found < oldest:
            what = f"{name} {text} is older than {_text(oldest)}, the oldest that is tested"
            return warning(what, _install(name, f">={_text(oldest)}"))
    return ok(", ".join(f"{name} {text}" for name, text in evidence.versions.items()))


def _install(name: str, wanted: str) -> str:
    if name == "Python":
        return f"use Python {wanted}"
    return f'pip install "{name}{wanted}"  # or try it: this is a note, no fault'


def _release(text: str) -> tuple[int, int]:
    numbers = [int(number) for number in re.findall(r"\d+", text)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) > 1 else (0, 0)


def _is_beta(name: str, text: str) -> bool:
    """Tell whether it is the beta of Sentry's next major release, which is tested."""
    return name == "sentry-sdk" and text.startswith("3.0.0b")


def _text(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]}"


def relay(evidence: Evidence) -> Finding:
    """Look whether a worker's relay can start here."""
    if evidence.settings is not None and not evidence.settings.relay:
        return ok("the relay is turned off: each process sends its own telemetry")
    problem = evidence.relay_problem or _said_by_worker(evidence)
    if problem is None:
        return ok("a worker's relay can start here")
    what = f"no relay can start here, so what a killed process had recorded is lost: {problem}"
    return warning(what, _fix_of_relay(problem))


def _said_by_worker(evidence: Evidence) -> str | None:
    lines = evidence.probe.log if evidence.probe is not None else ()
    found = [line for line in lines if "there is no relay" in line]
    return found[0].rpartition("telemetry: ")[2] if found else None


def _fix_of_relay(problem: str) -> str:
    if "too long" in problem or "directory" in problem or "ermission" in problem:
        return "export XDG_RUNTIME_DIR=<a short path that only the worker's user can write to>"
    if "limit" in problem:
        return "raise the limit on processes: ulimit -u, or the container's pids limit"
    if "interpreter" in problem or "frozen" in problem:
        return "start the worker with a Python interpreter, or export TASKOBS_RELAY=0"
    return "export TASKOBS_RELAY=0  # each process then sends its own telemetry"


def broker(evidence: Evidence) -> Finding:
    """Look whether the broker responds."""
    fix = "start the broker, or set broker_url to where it is"
    return _of_connection(evidence, evidence.broker, "broker", fix)


def result_backend(evidence: Evidence) -> Finding:
    """Look whether the result backend responds, if there is one."""
    fix = "start the result backend, or set result_backend to where it is"
    probe = evidence.probe
    if probe is not None and probe.stored is False and evidence.backend is not None:
        backend = evidence.backend.address or "the result backend"
        what = f"{backend} responds, and does not keep the probe task's result"
        fix = "let the worker write to it: it may be read-only or full, or a table may be missing"
        return broken(what, fix)
    return _of_connection(evidence, evidence.backend, "result backend", fix)


def _of_connection(evidence: Evidence, found: Connection | None, what: str, fix: str) -> Finding:
    if found is None:
        return unknown(NOT_IMPORTED if evidence.app is None else "it was not asked")
    if found.problem is not None:
        name = f"{what} {found.address}".rstrip()
        return broken(f"the {name} does not respond: {found.problem}", fix)
    return ok(found.address or f"there is no {what}")
