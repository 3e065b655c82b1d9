"""Prints what was found: for people, or as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import click

from taskobs.cli.doctor.asking.celery_servers import in_words
from taskobs.cli.doctor.evidence import Evidence
from taskobs.cli.doctor.finding import Check, Finding, Status, unknown
from taskobs.cli.doctor.secrets import Secrets

_MARKS: Final = {
    Status.OK: ("✓", "green"),
    Status.WARNING: ("!", "yellow"),
    Status.BROKEN: ("✗", "red"),
    Status.UNKNOWN: ("?", "bright_black"),
}


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, without secrets."""

    app: str
    trace_id: str
    seconds: float
    findings: Sequence[tuple[Check, Finding]]

    @property
    def broken(self) -> bool:
        """Whether anything is broken."""
        return any(finding.status is Status.BROKEN for _, finding in self.findings)

    def as_json(self) -> str:
        """Return it for programs."""
        findings = [
            {
                "name": check.name,
                "claim": check.claim,
                "status": finding.status.value,
                "what": finding.what,
                "fix": finding.fix,
            }
            for check, finding in self.findings
        ]
        head = {"app": self.app, "broken": self.broken, "trace_id": self.trace_id}
        return json.dumps({**head, "seconds": self.seconds, "findings": findings}, indent=2)

    def show(self) -> None:
        """Print it for people."""
        width = max(len(check.name) for check, _ in self.findings)
        for check, finding in self.findings:
            mark, color = _MARKS[finding.status]
            name = click.style(check.name.ljust(width), bold=finding.status is not Status.OK)
            click.echo(f"{click.style(mark, fg=color)} {name}  {finding.what}")
            if finding.fix:
                click.echo(f"  {' ' * width}  {click.style('→', fg=color)} {finding.fix}")
        click.echo(f"\n{self._summary()}")

    def _summary(self) -> str:
        counts = Counter(finding.status for _, finding in self.findings)
        parts = [f"{counts[status]} {status.value}" for status in Status if counts[status]]
        trace = f"; the probe is trace {self.trace_id}" if self.trace_id else ""
        return f"{', '.join(parts)}, in {self.seconds:.1f} s{trace}"


def report_of(evidence: Evidence, checks: Sequence[Check], seconds: float) -> Report:
    """Run the checks, and mask what they have found."""
    secrets = Secrets.of(evidence)
    trace_id = evidence.probe.trace_id if evidence.probe is not None else ""
    findings = [(check, _masked(_examined(check, evidence), secrets)) for check in checks]
    return Report(evidence.name, trace_id, round(seconds, 1), findings)


def _examined(check: Check, evidence: Evidence) -> Finding:
    try:
        return check.examine(evidence)
    except Exception as error:  # noqa: BLE001  # one that fails says nothing of the others
        return unknown(f"the check itself has failed: {in_words(error)}")


def _masked(finding: Finding, secrets: Secrets) -> Finding:
    what = " ".join(secrets.mask(finding.what).split())
    return replace(finding, what=what, fix=secrets.mask(finding.fix))
