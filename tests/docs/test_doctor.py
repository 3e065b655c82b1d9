"""The page about the doctor has each of its checks, in their order, and says what it does."""

from __future__ import annotations

import re
from typing import Final

from click import Option

from taskobs.cli.doctor.checks.table import CHECKS
from taskobs.cli.main import main
from tests.docs.pages import first_column, section
from tests.support.paths import ROOT

PAGE: Final = ROOT / "docs/how-to/doctor.md"


def test_the_page_has_every_check() -> None:
    """I look up a finding by its name, and the page says what it means and how to mend it."""
    assert first_column(section(PAGE, "Findings")) == [check.name for check in CHECKS]


def test_the_page_has_every_option() -> None:
    """I read the options, and the command takes these and no others."""
    rows = re.findall(r"^\| (`-.+?) \|", section(PAGE, "Options"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(-[a-zA-Z-]+)`", row)}
    options = [one for one in main.commands["doctor"].params if isinstance(one, Option)]
    assert listed == {name for option in options for name in option.opts}
