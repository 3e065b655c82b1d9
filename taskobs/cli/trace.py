"""``taskobs trace``."""

from __future__ import annotations

import os

import click

from taskobs.cli.finite_range import FiniteRange

_DEFAULT = "http://localhost:16686"
_DAYS = 7


@click.command()
@click.argument("wanted", metavar="ID")
@click.option(
    "--jaeger-api",
    envvar="TASKOBS_JAEGER_API",
    default=_DEFAULT,
    show_default=True,
    metavar="URL",
    help="The address of Jaeger's pages; it may hold user name and password.",
)
@click.option(
    "--service",
    "services",
    multiple=True,
    help="Search this service alone; may be repeated. By default: all.",
)
@click.option(
    "--days",
    type=FiniteRange(min=0, min_open=True, max=3650),
    default=_DAYS,
    show_default=True,
    help="How far back to search. A trace id is found at any age.",
)
@click.option("--no-color", is_flag=True, help="Print without colours (NO_COLOR does so too).")
@click.pass_context
def trace(  # noqa: PLR0913  # one argument an option, and the context
    context: click.Context,
    *,
    wanted: str,
    jaeger_api: str,
    services: tuple[str, ...],
    days: float,
    no_color: bool,
) -> None:
    """Print the trace of a task, as Jaeger has it.

    ID is the id of the task, of its trace, or of the Sentry event of its failure.
    """
    from taskobs.cli.jaeger.finding import find
    from taskobs.cli.jaeger.query_api import QueryApi, QueryError
    from taskobs.view import tree
    from taskobs.view.traces import assemble

    if no_color or "NO_COLOR" in os.environ:
        context.color = False
    try:
        api = QueryApi(jaeger_api)
        traces = assemble(find(api, wanted.strip(), services=services, days=days))
    except QueryError as error:
        raise click.ClickException(f"{error}: set --jaeger-api or TASKOBS_JAEGER_API") from None
    if not traces:
        raise click.ClickException(_nothing(api.address, wanted, services, days))
    for one in traces:
        click.echo("\n".join(tree.lines(one)))
        click.echo(f"{api.page(one.trace_id)}\n")


def _nothing(address: str, wanted: str, services: tuple[str, ...], days: float) -> str:
    from taskobs.view.tree import printable

    where = f"{address} ({', '.join(map(printable, services))})" if services else address
    return (
        f"no task, trace or event {printable(wanted)!r} of the last {days:g} days at {where}: "
        "--days searches further back"
    )
