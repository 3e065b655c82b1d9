"""Write the table of settings into its page; with ``--check``, only say whether it is stale."""

from __future__ import annotations

import sys
from pathlib import Path

from taskobs.config.settings import settings_table
from tools.generated import update

PAGE = Path(__file__).resolve().parent.parent / "docs/reference/settings.md"
BEGIN = "<!-- settings -->"
END = "<!-- /settings -->"


def with_table(text: str) -> str:
    """Return the text with today's table between its markers.

    Raises:
        ValueError: the markers are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} and {END} in the text")
    return f"{before}{BEGIN}\n{settings_table()}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(update(PAGE, with_table(PAGE.read_text(encoding="utf-8")), __doc__))
