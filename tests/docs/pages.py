"""The project's pages, read as Markdown: their blocks of code, their tables, their links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

from tests.support.paths import ROOT

_NOT_RUN: Final = re.compile(r"<!-- not run: (.+?) -->")
_NAME: Final = re.compile(r"# ([\w/]+)\.py\n")
_FILE: Final = re.compile(r"[#;] (/?[\w./-]+)\n")
RUN_WHOLE: Final = frozenset(
    f"docs/how-to/{name}.md"
    for name in ("collector", "from-stock", "gevent", "jaeger", "prometheus-grafana", "sentry")
)
"""Pages whose commands tests/live/test_how_to.py runs, one after the other."""
_PROGRAMS: Final = ("python", "bash")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of code."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None
    """The reason that the page gives in a comment before the block."""
    section: str = ""
    """The heading of the second level that it stands below."""

    @property
    def file(self) -> str | None:
        """The name of the file that it shows, if its first line gives one."""
        found = _FILE.match(self.text)
        return found[1] if found else None

    @property
    def module(self) -> str | None:
        """What the block's first line, such as ``# shop/celery.py``, calls it."""
        found = _NAME.match(self.text)
        return found[1].replace("/", ".").removesuffix(".__init__") if found else None

    @property
    def path(self) -> str:
        """The file that the block's first line names."""
        found = _NAME.match(self.text)
        assert found, f"{self}: its first line names no file"
        return f"{found[1]}.py"

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Find every page for users and contributors."""
    top = [ROOT / name for name in ("CONTRIBUTING.md", "README.md", "SECURITY.md")]
    return sorted([*top, *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


def blocks(page: Path) -> list[Block]:
    """Read the fenced blocks of a page."""
    found: list[Block] = []
    comment = heading = ""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    for position, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            heading = tokens[position + 1].content
        if token.type == "fence" and token.map:
            reason = _NOT_RUN.search(comment)
            found.append(
                Block(
                    page=page,
                    line=token.map[0] + 1,
                    language=token.info.strip(),
                    text=token.content,
                    not_run=reason[1] if reason else None,
                    section=heading,
                )
            )
        if token.level == 0 and token.nesting >= 0:
            comment = token.content if token.type == "html_block" else ""
    return found


def files(page: Path) -> dict[str, str]:
    """Read the files that a page shows, but for programs: by what their first line names."""
    return {
        block.file: block.text
        for block in blocks(page)
        if block.file is not None and block.language not in _PROGRAMS
    }


def all_blocks(*languages: str) -> list[Block]:
    """Read the blocks of all pages that are in one of the languages."""
    return [block for page in pages() for block in blocks(page) if block.language in languages]


def section(page: Path, heading: str) -> str:
    """Give the text under a heading, up to the next one of its level."""
    text = page.read_text(encoding="utf-8")
    found = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert found, f"{page.name} has no heading {heading}"
    return found[1]


def first_column(text: str) -> list[str]:
    """Give what the rows of the tables in a text begin with: the name in backticks."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
