"""How Sphinx makes a site of the pages: ``make docs-site``.

The source is the whole tree, not this folder: README.md, the changelog and the examples' pages are
pages of the site, so a link that works in the repository works there too, and is checked.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent

project = "taskobs"
author = "The taskobs maintainers"
project_copyright = author
release = importlib.metadata.version("taskobs")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/**.md",
    "examples/**.md",
]
# So that Sphinx doesn't walk through environments, caches and build products.
exclude_patterns = [
    entry.name
    for entry in ROOT.iterdir()
    if entry.is_dir() and entry.name not in {"docs", "examples"}
]

# As the repository's host makes them, of each heading that the pages have.
myst_heading_anchors = 4

# Names in signatures that are another library's, or of no public module of ours, lead nowhere: no
# inventory is fetched. A public name that is misspelt is refused.
nitpick_ignore_regex = [("py:.*", r"(?!taskobs\.[A-Za-z_]+$).*")]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 100
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"taskobs {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["site"]
html_copy_source = False
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    """Show the graphs as text: the library that draws them would come from another site."""
    app.add_lexer("mermaid", TextLexer)
