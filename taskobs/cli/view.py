"""``taskobs view``."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from taskobs.cli.finite_range import FiniteRange

if TYPE_CHECKING:
    from taskobs.view.command.starting import Page

_PORT: Final = 7318
_MEBIBYTES: Final = 64
_STAY: Final = 10.0
_INTERVAL: Final = 1.0


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=_PORT,
    show_default=True,
    help="The page's port, the same for each process of the app; 0 is any free one.",
)
@click.option("--open", "open_page", is_flag=True, help="Show the page in the browser.")
@click.option(
    "--memory",
    type=click.IntRange(1, 4096),
    default=_MEBIBYTES,
    show_default=True,
    metavar="MIB",
    help="What the page keeps; beyond it the oldest is dropped, and the page says so.",
)
@click.option(
    "--stay",
    type=FiniteRange(0, 86_400),
    default=_STAY,
    show_default=True,
    metavar="SECONDS",
    help="How long the page stays when no command runs and no browser shows it.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def view(  # noqa: PLR0913  # one argument an option, and the context
    context: click.Context,
    *,
    port: int,
    open_page: bool,
    memory: int,
    stay: float,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND, and show its traces, errors and log lines on a page that follows.

    For example: `taskobs view -- celery -A shop worker`. Give web server, worker and beat the
    same line, each in a terminal of its own: they share one page. Without a COMMAND, the
    variables to set are printed. Needs no server, and nothing leaves this machine.
    """
    from taskobs.view.command.running import CommandError, become, find, shown_name
    from taskobs.view.command.starting import Options, ViewError, reach
    from taskobs.view.command.variables import command_environment, set_aside

    options = Options(port=port, limit=memory * 1024 * 1024, stay=stay)
    try:
        path = find(command[0]) if command else ""
        page = reach(options, shown_name(command) if command else "taskobs view")
        _say(page, set_aside(os.environ) if command else [])
        if open_page:
            _open(page.url)
        if command:
            become(path, command, command_environment(os.environ, page.port))
        _serve(page)
    except ViewError as error:
        raise click.ClickException(str(error)) from None
    except CommandError as error:
        click.echo(f"taskobs view: {error}", err=True)
        context.exit(error.status)


def _say(page: Page, not_used: list[str]) -> None:
    joined = "joined " if page.joined else ""
    click.echo(f"taskobs view: {joined}{page.url}, every trace is sampled", err=True)
    if not_used:
        click.echo(f"taskobs view: set aside here: {', '.join(not_used)}", err=True)


def _open(url: str) -> None:
    from taskobs.view.command.starting import run_detached

    with Path(os.devnull).open("wb") as nowhere:
        run_detached([sys.executable, "-m", "webbrowser", url], nowhere.fileno())


def _serve(page: Page) -> None:
    from taskobs.view.command.starting import is_served
    from taskobs.view.command.variables import page_variables

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        click.echo("\nSet these for each process of the app:\n")
        for name, value in page_variables(page.port).items():
            click.echo(f"export {name}={value}")
        click.echo("\nCtrl-C ends the page, unless a command or a browser uses it.")
        while is_served(page.port):
            time.sleep(_INTERVAL)
    except KeyboardInterrupt:
        return
    raise click.ClickException(f"the page at {page.url} has ended")
