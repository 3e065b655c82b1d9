"""``taskobs dashboards``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to write to; it is made, and files of the same names are replaced.",
)
def dashboards(*, out: Path) -> None:
    """Write dashboards for Grafana, and rules for Prometheus with their tests."""
    from taskobs.dashboards.writing import write

    try:
        written = write(out)
    except OSError as error:
        raise click.ClickException(f"{out} can't be written to: {error.strerror}") from None
    for path in written:
        click.echo(path)
