"""Evidence for the checks of ``taskobs doctor``, from real settings, without an app or a worker."""

from __future__ import annotations

from typing import Any

from taskobs.cli.doctor.checks.table import CHECKS
from taskobs.cli.doctor.evidence import Evidence, Probe
from taskobs.cli.doctor.finding import Finding, Status
from taskobs.cli.doctor.gathering import ask_servers, root_span
from taskobs.config.settings import resolve
from taskobs.errors import SettingError

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def nothing(*_: object) -> None:
    """Do nothing, and find nothing."""


def evidence(environ: dict[str, str] | None = None, **arguments: Any) -> Evidence:
    """Give what is known of an app with these variables, and these arguments of ``init()``."""
    variables = environ or {}
    made = Evidence(name="shop", environ=variables)
    try:
        made.settings = resolve(arguments, variables)
    except SettingError as error:
        made.setting_error = error
    return made


def asked(environ: dict[str, str] | None = None, **arguments: Any) -> Evidence:
    """Give the same, with what the servers say; the variables have to be those of the process."""
    made = evidence(environ, **arguments)
    ask_servers(made, root_span(made))
    return made


def probed(environ: dict[str, str] | None = None, **seen: Any) -> Evidence:
    """Give the same, with a probe task that went well but for what is ``seen``."""
    made = evidence(environ or {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"})
    run = {"headers": {"traceparent": TRACEPARENT}, "trace_id": TRACE, "sampled": True}
    relay = {"exported": {"span": 1, "envelope": 1}, "dropped": {}, "failing": {}}
    well: dict[str, Any] = {
        "trace_id": TRACE,
        "sent_headers": {"traceparent": TRACEPARENT},
        "ready": True,
        "run": run,
        "event": {"trace_id": TRACE},
        "relay": relay,
    }
    made.probe = Probe(**{**well, **seen})
    return made


def examine(name: str, made: Evidence) -> Finding:
    """Run one check of the table."""
    [check] = [check for check in CHECKS if check.name == name]
    return check.examine(made)


def found(name: str, made: Evidence, status: Status = Status.BROKEN) -> Finding:
    """Run one check, which has to find a fault."""
    finding = examine(name, made)
    assert finding.status is status, finding
    assert finding.fix, finding
    return finding


def fine(name: str, made: Evidence) -> Finding:
    """Run one check, which has to find nothing."""
    finding = examine(name, made)
    assert (finding.status, finding.fix) == (Status.OK, ""), finding
    return finding
