"""The page that follows, as the server gives it: its HTML and its policy."""

from __future__ import annotations

from typing import Final

from taskobs.view.command.variables import page_variables
from taskobs.view.pages import digest, embeddable, page, resource, script_of, style_of

FOLDER: Final = "taskobs.view.page"


class LivePage:
    """One page for all: what it shows, it asks for."""

    def __init__(self, port: int) -> None:
        """Read the files, and put them together."""
        styles, scripts = [resource(FOLDER, "live.css")], [resource(FOLDER, "live.js")]
        html = resource(FOLDER, "live.html")
        variables = [f"{name}={value}" for name, value in page_variables(port).items()]
        data = embeddable({"variables": variables})
        self.html = page(html, styles=styles, scripts=scripts, data=data).encode()
        self.policy = "; ".join(
            [
                "default-src 'none'",
                f"style-src 'sha256-{digest(style_of(styles))}'",
                f"script-src 'sha256-{digest(script_of(scripts))}'",
                "connect-src 'self'",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
            ]
        )
