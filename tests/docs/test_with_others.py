"""The page about other observers: a section each, and for each section tests that run them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.support.paths import ROOT

PAGE = ROOT / "docs/with-others.md"


def sections() -> set[str]:
    return set(re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def marked() -> Iterator[str]:
    """Give the sections that the marks of tests name."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="neighbour"), args=[ast.Constant(value=str(name))]
                ):
                    yield name
                case _:
                    pass


def test_each_section_has_tests() -> None:
    """I read what happens beside a library of mine, and a test has shown it."""
    assert {*marked()} == sections()
