"""Write the table of settings into its page; with ``--check``, only say whether it is stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from taskobs.config.settings import settings_table

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


def main() -> int:
    """Return the exit status: 1 if ``--check`` found a stale table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when stale")
    check: bool = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    fresh = with_table(text)
    if text == fresh:
        return 0
    if check:
        print(f"{PAGE.name}: the table of settings is stale; run `make docs`", file=sys.stderr)
        return 1
    PAGE.write_text(fresh, encoding="utf-8")
    print(f"{PAGE.name}: wrote the table of settings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
