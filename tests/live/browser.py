"""A headless Chromium that clicks, as a user would: the W3C's WebDriver protocol, over HTTP.

https://www.w3.org/TR/webdriver2/
"""

from __future__ import annotations

import base64
import contextlib
import tempfile
import urllib.error
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.live.process import LIMIT, Program, wait_until
from tests.live.services import (
    HOST,
    Missing,
    answers,
    fetch,
    find_program,
    free_port,
    plain_environment,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from typing_extensions import Self

ARGUMENTS: Final = (
    "--headless=new",
    "--no-sandbox",  # it does not start as root with one
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)
ELEMENT: Final = "element-6066-11e4-a52e-4f735466cecf"
"""The key that the standard gives to references to elements."""


@contextlib.contextmanager
def driver(folder: Path) -> Generator[str]:
    """Run the driver of browsers; give its address."""
    install = "run .ci/services chromium"
    program = find_program("chromedriver", variable="TASKOBS_CHROMEDRIVER", install=install)
    find_program("chromium", variable="TASKOBS_CHROMIUM", install=install)
    port = free_port()
    with Program(
        [program, f"--port={port}"],
        log=folder / "chromedriver.log",
        env=plain_environment() | {"TMPDIR": str(folder), "HOME": str(folder)},
        lasting=True,
    ) as running:
        url = f"http://{HOST}:{port}"
        running.wait_ready(lambda: answers(f"{url}/status"))
        yield url


class Browser:
    """One window; a context manager that closes it."""

    def __init__(self, address: str, *, width: int = 1600, height: int = 1000) -> None:
        """Open it."""
        options = {"args": [*ARGUMENTS, f"--window-size={width},{height}"]}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        body = {"capabilities": {"alwaysMatch": wanted}}
        made = fetch(f"{address}/session", body=body, method="POST")
        self._session = f"{address}/session/{made['value']['sessionId']}"

    def _command(self, path: str, body: object | None = None, method: str = "POST") -> Any:
        return fetch(f"{self._session}/{path}", body=body, method=method)["value"]

    def open(self, url: str) -> None:
        """Go to an address."""
        self._command("url", {"url": url})

    def reload(self) -> None:
        """Load the page again."""
        self._command("refresh", {})

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self._command("url", method="GET"))

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page; give what it returns."""
        return self._command("execute/sync", {"script": script, "args": arguments})

    def texts(self, selector: str) -> list[str]:
        """Give the visible text of each element that a CSS selector finds."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        return [str(text) for text in self.run(script, selector)]

    def text(self, selector: str) -> str:
        """Give the visible text of all elements that a CSS selector finds."""
        return "\n".join(self.texts(selector))

    def click(self, selector: str, text: str = "") -> None:
        """Click the first element that is found, of those that have a text; as a mouse does."""
        self.wait(lambda: self._clicked(selector, text), f"{selector} {text!r} to click")

    def _clicked(self, selector: str, text: str) -> bool:
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".find(e => e.innerText.includes(arguments[1]))"
        )
        found = self.run(script, selector, text)
        if found is None:
            return False
        try:
            self._command(f"element/{found[ELEMENT]}/click", {})
        except urllib.error.HTTPError as error:
            # The page has drawn another one in its place, or moves it at this moment.
            if error.code not in {HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST}:
                raise
            return False
        return True

    def type(self, selector: str, text: str) -> None:
        """Empty a field, and type into it."""
        found = self._command("element", {"using": "css selector", "value": selector})[ELEMENT]
        self._command(f"element/{found}/clear", {})
        if text:
            self._command(f"element/{found}/value", {"text": text})

    def wait(self, condition: Callable[[], bool], wanted: str) -> None:
        """Wait until a condition holds; fail with what the page shows."""
        if not wait_until(condition, timeout=LIMIT):
            raise AssertionError(f"the page does not have {wanted}:\n{self.text('body')}")

    def wait_text(self, selector: str, wanted: str) -> None:
        """Wait until an element has a text."""
        self.wait(lambda: wanted in self.text(selector), f"{wanted!r} in {selector}")

    def errors(self) -> list[str]:
        """Give what the page's console says went wrong, violations of its policy among it."""
        entries = self._command("se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in {"SEVERE", "WARNING"}]

    def screenshot(self, path: Path) -> None:
        """Write a picture of the window."""
        path.write_bytes(base64.b64decode(self._command("screenshot", method="GET")))

    def close(self) -> None:
        """Close it."""
        fetch(self._session, method="DELETE")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def browser(**size: int) -> Generator[Browser]:
    """Run a browser with a driver of its own, in a folder that is deleted at the end."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        driver(Path(folder)) as address,
        Browser(address, **size) as opened,
    ):
        yield opened


__all__ = ["Browser", "Missing", "browser", "driver"]
