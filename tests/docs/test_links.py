"""Each link of a page leads to a file that is there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.docs.pages import pages
from tests.support.paths import ROOT

NAMES = [str(page.relative_to(ROOT)) for page in pages()]


def links(tokens: Sequence[Token]) -> Iterator[str]:
    """Give the targets of links and pictures, but for those on the web."""
    for token in tokens:
        for attribute in ("href", "src"):
            target = token.attrGet(attribute)
            if isinstance(target, str) and "://" not in target:
                yield target
        yield from links(token.children or ())


def leads(page: Path, target: str) -> bool:
    """Tell whether there is such a file and, after a hash sign, such a heading."""
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    if not anchor:
        return path.exists()
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in map(anchor_of, headings)


def anchor_of(heading: str) -> str:
    """Give the anchor of a heading as GitHub makes it: without the marks of code."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    """I follow a link, and find what it speaks of."""
    page = ROOT / name
    targets = links(MarkdownIt().parse(page.read_text(encoding="utf-8")))
    assert [target for target in targets if not leads(page, target)] == []


def test_the_picture_is_small() -> None:
    """I open the README on a train, and its picture is there."""
    picture = Path(ROOT / "docs/demo.png")
    assert picture.stat().st_size < 250_000
