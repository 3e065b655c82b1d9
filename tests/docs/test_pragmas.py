"""Comments that switch a check off have one form: the pragmas, then at most one reason."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.paths import ROOT

FOLDERS: Final = ("bench", "examples", "taskobs", "tests", "tools")
RULES: Final = r"[A-Z]+\d+(?:, [A-Z]+\d+)*"
PRAGMA: Final = (
    rf"(?:(?:ruff: )?noqa: {RULES}"
    r"|type: ignore\[[\w-]+(?:, [\w-]+)*\]"
    r"|pyright: ignore\[\w+(?:, \w+)*\]"
    r"|pyright: \w+=\w+(?:, \w+=\w+)*)"
)
BEGINS: Final = re.compile(r"#\s*(?:ruff:|noqa|type:\s*ignore|pyright:)", re.IGNORECASE)
FORM: Final = re.compile(rf"# {PRAGMA}(?:  # {PRAGMA})*(?:  # (?P<reason>\S.*))?")


def well_formed(comment: str) -> bool:
    """Tell whether a comment has no pragma, or has the form."""
    if not BEGINS.search(comment):
        return True
    found = FORM.fullmatch(comment)
    return found is not None and not BEGINS.search(f"# {found['reason'] or ''}")


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """Give the comments of a file with their lines."""
    with path.open(encoding="utf-8") as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


@pytest.mark.parametrize(
    "comment",
    [
        "# noqa: S603 - our own command",
        "# noqa: S603 (our own command)",
        "# noqa: S603 # our own command",
        "# noqa",
        "# noqa:S603",
        "# type: ignore",
        "# pyright: ignore[reportPrivateUsage] - a look inside",
        "# it says why  # noqa: S603",
        "# noqa: F401  # first  # pyright: ignore[reportUnusedImport]",
    ],
)
def test_other_forms_are_found(comment: str) -> None:
    """I write a reason in a form of my own, and the next test finds it."""
    assert not well_formed(comment)


def test_reasons_behind_pragmas_have_one_form() -> None:
    """I look for why a check is off, and it stands in a comment of its own behind the pragma."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {comment}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, comment in comments(path)
        if not well_formed(comment)
    ]
    assert wrong == [], "the form is: `# noqa: S603  # our own command`"
