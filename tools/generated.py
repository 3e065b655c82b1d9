"""What the tools that write a page from the code do with it, and their option ``--check``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def update(page: Path, fresh: str, description: str | None) -> int:
    """Write a page if it is stale, or with ``--check`` only say so; return the exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when stale")
    check: bool = parser.parse_args().check
    if page.exists() and page.read_text(encoding="utf-8") == fresh:
        return 0
    if check:
        print(f"{page.name}: stale; run `make docs`", file=sys.stderr)
        return 1
    page.write_text(fresh, encoding="utf-8")
    print(f"{page.name}: written")
    return 0
