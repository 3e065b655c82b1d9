"""One thing has one name, and that is the field's: the private words of old are not used again."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import taskobs
from tests.support.paths import ROOT
from tests.support.syntax import nodes_of

IDENTIFIERS: Final = frozenset(
    """
    Passenger passenger board
    Openings openings _Open heir bequeathed leftover leftovers
    pen _WRITER permit permits Way lead sink divert diverted
    light_take light_room light_row light_key LightSpan LightTracer LightProvider
    shelf shelves serves Shelf told_afterwards Ending
    draining StandIn stand_in represent surroundings late absent bounded imported
    seam Seam Answer Verdict verdict OUT LATER NEVER Carrier Post
    about abouts owner owners fact facts FACT LOOK GOODBYE BYE goodbye bye
    gone GONE stranger strangers odd Odd tidy known
    Ledger ledger Journal journal Recent recent Mailbox mailbox Intake intake Unwritten unwritten
    owed owe places Place place insist offer hurry hurried linger polite passed
    """.split()  # noqa: SIM905  # a list of words is read more easily so
)
"""The left-hand side of the list of words: identifiers of code and tests."""
METAPHORS: Final = re.compile(
    r"\b(passengers?|heirs?|bequeath\w*|the pen|shelf|shelves|ledger|mailbox|strangers?"
    r"|in a hurry|hurr(?:y|ied)|polite(?:ly)?|goodbye|linger\w*|light spans?|seams?"
    r"|stand-?in|surroundings|tidy|bequest)\b",
    re.IGNORECASE,
)
"""Their metaphors, in docstrings, comments, log lines and pages."""
MAY_NAME: Final = re.compile(
    rf"\b_*(?:{'|'.join(map(re.escape, sorted(IDENTIFIERS)))})\b"
    r"(?=\s*[=:,(){}\[\]+*/%&|^<>@#;\\-]|\s+in\b|[ \t]*$)",
    re.MULTILINE,
)
"""What is in each module that makes such a name, by what may follow one: few have to be parsed.

``may_have``, which also finds them in sentences, is the quicker one.
"""
WORD: Final = re.compile(r"\w+")
PACKAGE: Final = Path(taskobs.__file__).parent
FOLDERS: Final = ("tests", "bench", "tools")


def sources() -> list[Path]:
    """Give all Python files of the project but this one."""
    folders = [PACKAGE, *(ROOT / folder for folder in FOLDERS)]
    found = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return [path for path in found if path != Path(__file__)]


def may_have(source: str) -> bool:
    """Tell whether a module has one of those words, be it in a sentence."""
    words = set(WORD.findall(source))
    return not IDENTIFIERS.isdisjoint(words | {word.lstrip("_") for word in words})


def names_in(source: str) -> Iterator[str]:
    """Give the names that a module makes itself: what others call theirs is not ours to choose."""
    for node in nodes_of(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.ExceptHandler(name=str(name)):
                yield name
            case _:
                pass


def texts_in(source: str) -> Iterator[str]:
    """Give comments and texts: docstrings, log lines, messages."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.string


def test_identifiers_have_the_words_of_the_field() -> None:
    """I read a name, and know what it is without a dictionary of this project."""
    found = Counter(
        f"{path.parent.name}/{path.name}: {name}"
        for path in sources()
        if (source := path.read_text(encoding="utf-8"))
        if may_have(source) and MAY_NAME.search(source)
        for name in names_in(source)
        if name.lstrip("_") in IDENTIFIERS or name in IDENTIFIERS
    )
    assert not found, "\n".join(f"{name} ({number})" for name, number in sorted(found.items()))


def test_texts_have_no_metaphor_that_must_be_learnt() -> None:
    """I read a docstring, a comment or a log line, and it says what happens."""
    found = [
        f"{path.parent.name}/{path.name}: {word[0]}"
        for path in sources()
        if (source := path.read_text(encoding="utf-8")) and METAPHORS.search(source)
        for text in texts_in(source)
        for word in METAPHORS.finditer(text)
    ]
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=str)
def test_pages_have_no_metaphor_that_must_be_learnt(page: Path) -> None:
    """I read a page of the documentation, and it uses the words that I know."""
    found = [word[0] for word in METAPHORS.finditer(page.read_text(encoding="utf-8"))]
    assert not found
