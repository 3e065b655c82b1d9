"""``taskobs doctor``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Final

import click

from taskobs.cli.finite_range import FiniteRange

if TYPE_CHECKING:
    from taskobs.cli.doctor.gathering import Options

_BROKEN: Final = 1
_UNFINISHED: Final = 2


@click.command()
@click.option("-A", "--app", required=True, help="The Celery app, as `celery -A`.")
@click.option(
    "-P",
    "--pool",
    help="The pool that your workers are started with; by default that of the app's configuration.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--timeout",
    type=FiniteRange(min=1, max=600),
    default=30.0,
    show_default=True,
    help="Seconds that the probe task may take, from the start of its worker.",
)
@click.option("--no-probe", is_flag=True, help="Start no worker and publish nothing.")
@click.option("--no-color", is_flag=True, help="Print without colours (NO_COLOR does so too).")
@click.pass_context
def doctor(  # noqa: PLR0913  # one argument an option, and the context
    context: click.Context,
    *,
    app: str,
    pool: str | None,
    as_json: bool,
    timeout: float,
    no_probe: bool,
    no_color: bool,
) -> None:
    """Look for what keeps the telemetry of an app from its servers, and say how to mend it.

    Run it where your worker runs, with the worker's environment. It asks the servers of the app's
    configuration, publishes a probe task to a queue of its own, which a worker of its own runs, and
    checks that publish, run and the event of a failure arrive as one trace. It runs no task of
    yours, and takes nothing from your queues.

    Exit status: 0 if nothing is broken, 1 if something is, 2 if it could not finish.
    """
    from taskobs.cli.doctor.gathering import Options

    if no_color or "NO_COLOR" in os.environ:
        context.color = False
    options = Options(app=app, pool=pool, timeout=timeout, probe=not no_probe)
    try:
        with _ended_by_sigterm():
            broken = _run(options, as_json=as_json)
    except KeyboardInterrupt:
        click.echo("\ninterrupted: nothing of the probe is left", err=True)
        context.exit(_UNFINISHED)
    except Exception as error:  # noqa: BLE001  # a fault of the doctor's own is none of the app's
        click.echo(f"\nthe doctor itself has failed: {_masked(error)}", err=True)
        context.exit(_UNFINISHED)
    if broken:
        context.exit(_BROKEN)


def _run(options: Options, *, as_json: bool) -> bool:
    from taskobs.cli.doctor.checks.table import CHECKS
    from taskobs.cli.doctor.gathering import gathered
    from taskobs.cli.doctor.report import report_of

    began = time.monotonic()
    # What the app prints is none of the findings.
    with redirect_stdout(sys.stderr), gathered(options) as evidence:
        report = report_of(evidence, CHECKS, time.monotonic() - began)
    if as_json:
        click.echo(report.as_json())
    else:
        report.show()
    return report.broken


def _masked(error: Exception) -> str:
    from taskobs.cli.doctor.asking.celery_servers import in_words
    from taskobs.cli.doctor.evidence import Evidence
    from taskobs.cli.doctor.secrets import Secrets

    return Secrets.of(Evidence(name="", environ=os.environ)).mask(in_words(error))


@contextmanager
def _ended_by_sigterm() -> Generator[None]:
    """Let SIGTERM end the block as Ctrl-C does: with all its clean-ups."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
