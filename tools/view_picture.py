"""Run the Flask example by ``taskobs view`` and take a picture of its page: ``docs/view.png``.

``python -m tools.view_picture``. Needs Chromium and its driver: ``.ci/services chromium``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from contextlib import ExitStack
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final

from taskobs.view.demo.process import Process
from tests.live.browser import Browser, browser

ROOT: Final = Path(__file__).resolve().parent.parent
PICTURE: Final = ROOT / "docs" / "view.png"
EXAMPLE: Final = ROOT / "examples" / "flask_app"
WIDTH, HEIGHT = 1600, 1143
ORDERS: Final = (1001, 1003, 1004, 1002)
"""The bank declines the card of 1002."""


def main() -> None:
    """Place orders, show the one that failed, and take the picture."""
    with ExitStack() as stack:
        port = serve(stack)
        window = stack.enter_context(browser(width=WIDTH, height=HEIGHT))
        show(window, port)
        window.screenshot(PICTURE)
    print(f"wrote {PICTURE.relative_to(ROOT)}")


def serve(stack: ExitStack) -> int:
    """Start the processes of the Procfile and place the orders; give the port of the page."""
    example = run_module()
    folder = Path(tempfile.gettempdir()) / "shop"  # names of its spans have it
    folder.mkdir()
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    page_port, web_port = example.free_port(), example.free_port()
    view = [sys.executable, "-m", "taskobs", "view", "--port", str(page_port), "--stay", "1", "--"]
    environment = dict(os.environ) | {"SHOP_FOLDER": str(folder), "PYTHONUNBUFFERED": "1"}
    os.chdir(EXAMPLE)
    for line in Path("Procfile").read_text(encoding="utf-8").splitlines():
        name, _, command = line.partition(": ")
        words = shlex.split(command.replace("$PORT", str(web_port)))
        process = Process([*view, sys.executable, "-m", *words], environment=environment)
        example.await_ready(name, stack.enter_context(process), web_port)
    for order in ORDERS:
        example.place(web_port, order)
    return int(page_port)


def show(window: Browser, port: int) -> None:
    """Find the order that failed, and wait until all of it has arrived."""
    window.open(f"http://127.0.0.1:{port}/")
    window.wait(lambda: len(window.texts("#list .mark")) == len(ORDERS), "a run for each order")
    window.click("#list .entry", "✗ failed")
    window.wait_text(".trace h2", "POST /orders")
    window.wait_text(".issue .title", "CardDeclinedError")
    window.click(".row.run")
    window.wait_text("#detail .pill", "failed")


def run_module() -> Any:  # noqa: ANN401  # a module has no type of its own
    """Load what runs the examples."""
    spec = spec_from_file_location("run_example", ROOT / "examples/run.py")
    assert spec is not None  # noqa: S101  # it is a file of this tree
    assert spec.loader is not None  # noqa: S101  # as above
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
