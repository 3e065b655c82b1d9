"""The reference has every public name, setting, command, option and metric, and no other."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Final

import click
import pytest

import taskobs
from taskobs import semconv
from taskobs.cli.main import main
from taskobs.config.settings import declared, settings_table
from tests.docs.pages import first_column
from tests.support.paths import ROOT
from tools.cli_reference import commands

REFERENCE: Final = ROOT / "docs/reference"


def text(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def test_every_public_name_is_on_the_page() -> None:
    """I read which names I may use, and the page describes each of them once."""
    described = re.findall(r"^\.\. (?:auto\w+|data):: taskobs\.(\w+)", text("api.md"), re.MULTILINE)
    assert sorted(described) == sorted(taskobs.__all__)


def test_every_setting_is_on_the_page() -> None:
    """`make docs` writes the table, and I find each argument of `init()` and its variable in it."""
    _, _, rest = text("settings.md").partition("<!-- settings -->\n")
    table = rest.partition("\n<!-- /settings -->")[0]
    assert table == settings_table()
    assert first_column(table) == [name for name, _ in declared()]


COMMANDS: Final = [("taskobs", main), *commands(main, "taskobs")]


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_every_option_is_on_the_page(words: str, command: click.Command) -> None:
    """I look up a command, and find each of its options below its heading."""
    heading = f"## `{words}`\n" if command is not main else "# Command line\n"
    section = text("cli.md").partition(heading)[2].partition("\n## ")[0]
    assert section
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert all(f"{option}" in section for option in parameter.opts)


def test_every_metric_is_on_the_page() -> None:
    """I see a metric in a backend, and find what it is called in Prometheus, and what it counts."""
    every = {value for name, value in vars(semconv).items() if name.startswith("METRIC_")}
    section = text("names.md").partition("## Metrics\n")[2].partition("\n## ")[0]
    assert {*first_column(section)} == every


@pytest.mark.parametrize("tool", ["settings_table", "cli_reference", "names_reference"])
def test_what_is_written_from_the_code_is_todays(tool: str) -> None:
    """I read the reference, and it is that of the code beside it."""
    command = [sys.executable, "-m", f"tools.{tool}", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
