"""Puts a page together: one HTML file with its style, its script and its data inside."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

SHARED: Final = "taskobs.view.page"
"""Where the waterfall's style and script are."""
_EMPTY: Final = "{}"


def page(
    html: str, *, styles: Iterable[str] = (), scripts: Iterable[str] = (), data: str = _EMPTY
) -> str:
    """Fill a page's placeholders; the waterfall's style and script come before the page's own."""
    style, script = style_of(styles), script_of(scripts)
    parts = {
        "@STYLE_HASH@": digest(style),
        "@SCRIPT_HASH@": digest(script),
        "@STYLE@": style,
        "@SCRIPT@": script,
        # Last, so that the names of tasks are not searched for placeholders.
        "@DATA@": data,
    }
    for mark, text in parts.items():
        html = html.replace(mark, text)
    return html


def style_of(own: Iterable[str]) -> str:
    """Return a page's whole style."""
    return "".join([resource(SHARED, "waterfall.css"), *own])


def script_of(own: Iterable[str]) -> str:
    """Return a page's whole script."""
    return "".join([resource(SHARED, "waterfall.js"), *own])


def digest(text: str) -> str:
    """Return what a page's policy calls the style or script that it allows."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embeddable(data: object) -> str:
    """Write JSON that can stand inside a ``<script>``: no ``</script>``, no ``<!--`` can occur."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def resource(folder: str, name: str) -> str:
    """Read a file that lies in a package's folder."""
    package, _, inner = folder.rpartition(".")
    return (files(package) / inner / name).read_text(encoding="utf-8")
