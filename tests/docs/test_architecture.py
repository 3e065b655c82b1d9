"""The page about the architecture shows the code as it is, and the code keeps to its sizes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.paths import ROOT
from tools.package_graph import CONTAINERS, imports, markers

PAGE: Final = ROOT / "docs" / "architecture.md"
PACKAGE: Final = ROOT / "taskobs"
FOLDERS: Final = sorted({path.parent for path in PACKAGE.rglob("*.py")})
STILL_TOO_LONG: Final[set[str]] = set()
"""Modules and classes that are to be split. Nothing is added; what has been split is taken out."""


def graph_on_page(container: str) -> dict[str, list[str]]:
    """Read the arrows of a package's graph, by where they begin."""
    begin, end = markers(container)
    text = PAGE.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    arrows = re.findall(r"^ +(\w+) --> (.+)$", text, re.MULTILINE)
    assert len(arrows) == text.count("-->"), "an arrow is not in the form `a --> b & c`"
    return {part: targets.split(" & ") for part, targets in arrows}


def modules_in(folder: Path) -> list[str]:
    """Name the modules of a folder, but for what makes a package of it."""
    return [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]


def too_long() -> Iterator[str]:
    """Name each module of more than 350 lines and each class of more than 250."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 350:
            yield name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and _lines(node) > 250:
                yield f"{name}: {node.name}"


def _lines(node: ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_graph_of_packages_is_that_of_the_code(container: str) -> None:
    """I read which package imports which, and it is so in the code."""
    real = {part: names for part, names in imports(container).items() if names}
    assert real
    assert graph_on_page(container) == real, "stale: run `make docs`"


def test_the_top_is_seen_at_a_glance() -> None:
    """I open the package, and it has at most 20 modules and packages."""
    packages = [folder.name for folder in FOLDERS if folder.parent == PACKAGE]
    assert len(packages) + len(modules_in(PACKAGE)) <= 20


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_has_few_modules(folder: Path) -> None:
    """I open any folder, and it has at most 16 modules."""
    assert len(modules_in(folder)) <= 16


def test_modules_and_classes_are_short() -> None:
    """I read a module of at most 350 lines, in which no class has more than 250."""
    found = set(too_long())
    assert found - STILL_TOO_LONG == set(), "too long: split it"
    assert STILL_TOO_LONG - found == set(), "no longer too long: take it out of STILL_TOO_LONG"


def test_modules_on_the_page_exist() -> None:
    """I follow a run, a failure or a death by the page, and find each file that it names."""
    named = re.findall(r"`([a-z_/]+(?:\.py|/))`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 30
    folders = (PACKAGE, ROOT)
    missing = {name for name in named if not any((folder / name).exists() for folder in folders)}
    assert not missing
