"""The ``taskobs`` command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from taskobs.cli.dashboards import dashboards
from taskobs.cli.doctor.command import doctor
from taskobs.cli.monitor import monitor
from taskobs.cli.trace import trace
from taskobs.cli.view import view


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="taskobs", prog_name="taskobs")
def main() -> None:
    """Observe Celery: traces, errors, metrics and logs from one line."""


@main.command()
@click.option(
    "--page",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=Path("taskobs-demo.html"),
    show_default=True,
    help="Where to write the page with the waterfall.",
)
@click.option("--open", "open_page", is_flag=True, help="Show the page in the browser.")
@click.option("--keep", is_flag=True, help="Keep the folder with messages, results and logs.")
@click.option("--no-color", is_flag=True, help="Print without colours (NO_COLOR does so too).")
@click.pass_context
def demo(
    context: click.Context, *, page: Path, open_page: bool, keep: bool, no_color: bool
) -> None:
    """Run a shop on a real worker and show its traces, its error and its logs.

    Needs no server. With OTEL_EXPORTER_OTLP_ENDPOINT or SENTRY_DSN set, traces or errors go
    there instead, and the demo prints where to look.
    """
    from taskobs.view.demo.run import Options, run

    if no_color or "NO_COLOR" in os.environ:
        context.color = False
    run(Options(page=page, keep=keep, open=open_page))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print all that the relays tell, as JSON.")
def status(*, as_json: bool) -> None:
    """Show what the relays of your workers have sent, dropped and kept.

    Those of your own user on this machine, while their workers run.
    """
    from taskobs.relay_client import socket_directory
    from taskobs.relay_client.status import every, table

    relays = every(os.environ) if socket_directory.SUPPORTED else []
    if as_json:
        click.echo(json.dumps([relay.as_json() for relay in relays], indent=2, default=repr))
    elif relays:
        click.echo(table(relays))
    else:
        click.echo("No worker of this user has a relay here.")


main.add_command(monitor)
main.add_command(dashboards)
main.add_command(trace)
main.add_command(doctor)
main.add_command(view)
