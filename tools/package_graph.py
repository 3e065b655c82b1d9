"""Print the graph of the imports between packages; with ``--write``, put it into its page.

Imports inside functions count; imports under ``TYPE_CHECKING`` do not, as they are never run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import grimp

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "architecture.md"
CONTAINERS: Final = ("taskobs", "taskobs.relay")
"""Packages of which the page shows the parts: modules and packages directly inside."""


def imports(container: str) -> dict[str, list[str]]:
    """Return what each part of a package imports of its other parts, all sorted by name.

    The package's own ``__init__`` is a part too, under the package's name, where one imports it.
    """
    graph = grimp.build_graph("taskobs", exclude_type_checking_imports=True, cache_dir=None)
    parts = graph.find_children(container)
    for part in parts:
        graph.squash_module(part)
    found = {
        _short(part): sorted(
            _short(module)
            for module in graph.find_modules_directly_imported_by(part)
            if module in parts or module == container
        )
        for part in sorted({*parts, container})
    }
    used = {name for names in found.values() for name in names}
    return {part: names for part, names in found.items() if names or part in used}


def _short(module: str) -> str:
    return module.rpartition(".")[2]


def markers(container: str) -> tuple[str, str]:
    """Return the comments between which a page has the graph of a package."""
    return f"<!-- packages of {container} -->", f"<!-- /packages of {container} -->"


def block(container: str) -> str:
    """Return the graph of a package in Mermaid's notation, fenced."""
    lines = [
        f"    {part} --> {' & '.join(names)}" for part, names in imports(container).items() if names
    ]
    return "\n".join(["```mermaid", "graph TD", *lines, "```"])


def with_graphs(text: str) -> str:
    """Return the text of the page with today's graphs between their markers.

    Raises:
        ValueError: a marker is missing.
    """
    for container in CONTAINERS:
        begin, end = markers(container)
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise ValueError(f"no {begin} and {end} in {PAGE.name}")
        text = f"{before}{begin}\n{block(container)}\n{end}{after}"
    return text


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    write: bool = parser.parse_args().write
    if not write:
        print("\n\n".join(map(block, CONTAINERS)))
        return 0
    text = PAGE.read_text(encoding="utf-8")
    fresh = with_graphs(text)
    if text != fresh:
        PAGE.write_text(fresh, encoding="utf-8")
        print(f"{PAGE.name}: wrote the graphs of packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
