"""Make a site of the pages in ``build/site``, and check its links.

Sphinx's warnings are errors: a missing page, a missing anchor, an unknown directive, a page that is
in no table of contents. Then each link and each picture of the built pages is followed,
those in raw HTML too: the file must be there and, after a hash sign, the id. Links to other
sites are not followed.

Exit status: 0 if the site is whole; 1 if not.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = ROOT / "build"
STARTED: Final = time.monotonic()


class Page(HTMLParser):
    """One built page: what can be linked to in it, and what it links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the id and the links of an element."""
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in {"href", "src"} and value and tag != "base":
                self.targets.append(value)


class Site:
    """A folder of built pages."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._pages = {path: Page(path) for path in sorted(self._folder.rglob("*.html"))}

    def broken(self) -> Iterator[str]:
        """Give each link that leads nowhere, with its page."""
        for path, page in self._pages.items():
            for target in dict.fromkeys(page.targets):
                if not self._leads(path, target):
                    yield f"{path.relative_to(self._folder)}: {target}"

    def _leads(self, path: Path, target: str) -> bool:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            return True
        found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not found.is_file():
            return False
        page = self._pages.get(found)
        return not parts.fragment or page is None or unquote(parts.fragment) in page.ids


def build(source: Path, out: Path) -> bool:
    """Build afresh, as known warnings are not repeated; tell whether there was none."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "--builder=html", "--quiet", "--color"]
    command += ["--fail-on-warning", "--nitpicky", "--fresh-env"]
    command += [f"--conf-dir={source / 'docs'}", f"--doctree-dir={out}.doctrees"]
    return subprocess.run([*command, source, out], check=False).returncode == 0


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, default=ROOT, help="the tree with the pages")
    parser.add_argument("--out", type=Path, default=BUILD / "site", help="where to build the site")
    chosen = parser.parse_args()
    if not build(chosen.source, chosen.out):
        print("docs-site: the warnings above are errors", file=sys.stderr)
        return 1
    if broken := [*Site(chosen.out).broken()]:
        print("docs-site: these links lead nowhere:", *broken, sep="\n   ", file=sys.stderr)
        return 1
    print(f"docs-site: {chosen.out / 'index.html'} ({time.monotonic() - STARTED:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
