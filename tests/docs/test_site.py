"""The site is built of the pages without a warning, and each of its links leads somewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Final

import pytest

import taskobs
from tests.support.paths import ROOT
from tests.support.unmeasured import unmeasured

pytest.importorskip("sphinx")  # the dependency group `docs`

INDEX: Final = "# Shop\n\n{text}\n\n```{{toctree}}\n../README\n```\n"


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build a site as `make docs-site` does."""
    command = [sys.executable, "tools/docs_site.py", f"--source={source}", f"--out={out}"]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=unmeasured(),
    )


def described(site: Path) -> set[str]:
    """Name what the inventory of a site has: a header of four lines, and compressed lines."""
    compressed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(compressed).decode().splitlines()
    return {line.partition(" ")[0] for line in lines if " py:" in line}


def small_tree(folder: Path, text: str) -> Path:
    """Make a tree with the project's configuration, an index with a text, and a README."""
    (folder / "docs").mkdir(parents=True)
    shutil.copy(ROOT / "docs/conf.py", folder / "docs")
    for name in ("site", "_static"):
        shutil.copytree(ROOT / "docs" / name, folder / "docs" / name)
    (folder / "docs/index.md").write_text(INDEX.format(text=text), encoding="utf-8")
    (folder / "README.md").write_text(
        "# Read me\n\n## The `first` step\n\nText.\n", encoding="utf-8"
    )
    return folder


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """I open the site, and each page and public name is in it, and each link leads somewhere."""
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(ROOT).with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(tmp_path / "site") for path in (tmp_path / "site").rglob("*.html")}
    assert {page.with_suffix(".html") for page in pages} <= built
    assert {Path("README.html"), Path("index.html")} <= built
    assert {f"taskobs.{name}" for name in taskobs.__all__} <= described(tmp_path / "site")


GOOD: Final = (
    "[a page](../README.md)",
    "[an anchor of another page](../README.md#the-first-step)",
    "[an anchor of this page](#shop)",
    "[another site](https://example.com/never-asked)",
    '<a href="../README.html#the-first-step">raw</a>',
)


def test_what_leads_somewhere_is_accepted(tmp_path: Path) -> None:
    """I link to a page, to an anchor, to another site, and the site is built."""
    done = build(small_tree(tmp_path / "tree", "\n\n".join(GOOD)), tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr


REFUSED: Final = {
    "[a page](missing.md)": "'missing.md'",
    "[a page that moved](../MOVED.md)": "'../MOVED.md'",
    "[an anchor of another page](../README.md#the-second-step)": "'the-second-step'",
    "[an anchor of this page](#nowhere)": "'nowhere'",
    "![a picture](missing.png)": "missing.png",
    "{py:func}`taskobs.initialise`": "taskobs.initialise",
    "```{no-such-directive}\n```": "no-such-directive",
}
"""What a page may have, and what the build must name."""


def test_what_leads_nowhere_is_refused(tmp_path: Path) -> None:
    """I misspell a link, a name, an anchor, or leave a page out of the contents, and read so."""
    tree = small_tree(tmp_path / "tree", "\n\n".join(REFUSED))
    (tree / "docs/alone.md").write_text("# Alone\n", encoding="utf-8")
    done = build(tree, tmp_path / "site")
    assert done.returncode == 1, done.stdout
    missed = [text for text, named in REFUSED.items() if named not in done.stderr]
    assert missed == [], done.stderr
    assert "alone.md: WARNING: document isn't included in any toctree" in done.stderr


RAW: Final = (
    '<a href="../README.html#the-second-step">raw</a>',
    '<a href="../MOVED.html">raw</a>',
    '<img src="missing.png">',
)


def test_html_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    """I write a link as HTML, which Sphinx passes on as it is, and it is followed all the same."""
    done = build(small_tree(tmp_path / "tree", "\n\n".join(RAW)), tmp_path / "site")
    assert done.returncode == 1, done.stdout
    found = [line.split()[-1] for line in done.stderr.splitlines() if "index.html: " in line]
    assert found == ["../README.html#the-second-step", "../MOVED.html", "missing.png"]
