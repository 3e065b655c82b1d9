"""Write the page of the command line from the commands; with ``--check``, say if it is stale."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from taskobs.cli.main import main as taskobs
from tools.generated import update

PAGE: Final = Path(__file__).resolve().parent.parent / "docs/reference/cli.md"
HELP: Final = ["-h", "--help"]
HEAD: Final = """\
# Command line

<!-- Written by `make docs`, from the commands themselves. -->
"""


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *_lines(taskobs, "taskobs")]).rstrip() + "\n"


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Give each command below a group, with the words that call it."""
    for word, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        yield f"{name} {word}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {word}")


def _lines(group: click.Group, name: str) -> Iterator[str]:
    yield from _described(group, name)
    for words, command in commands(group, name):
        yield from (f"## `{words}`", "")
        yield from _described(command, words)


def _described(command: click.Command, words: str) -> Iterator[str]:
    context = click.Context(command, info_name=words, help_option_names=HELP)
    yield from (_paragraphs(command.help or ""), "")
    yield from ("```text", command.get_usage(context).removeprefix("Usage: "), "```", "")
    rows = [*_rows(command, context)]
    if rows:
        yield from ("| Option | Variable | Meaning |", "|---|---|---|", *rows, "")


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(lines.split()) for lines in text.split("\n\n"))


def _rows(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            option, meaning = (text.replace("|", "\\|") for text in record)
            yield f"| `{option}` | {_variable(parameter)} | {meaning.replace('  ', ' ')} |"


def _variable(parameter: click.Parameter) -> str:
    return f"`{parameter.envvar}`" if isinstance(parameter.envvar, str) else ""


if __name__ == "__main__":
    sys.exit(update(PAGE, page(), __doc__))
