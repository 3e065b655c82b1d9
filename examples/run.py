"""Run an example with nothing but Python: its processes, two orders, and their traces.

``python run.py flask_app`` starts what the example's Procfile lists, on a broker and a database in
a folder that is deleted at the end. Telemetry goes to a receiver in this process, which prints it.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click

from taskobs.testing.receiver import Receiver
from taskobs.view import tree
from taskobs.view.demo import report
from taskobs.view.demo.process import Process
from taskobs.view.issues import issue
from taskobs.view.traces import assemble

ORDERS = (1001, 1002)
"""The bank declines the card of the second."""
TIMEOUT = 90.0
READY = {"worker": " ready.", "beat": "beat: Starting..."}


def main(name: str) -> None:
    """Run the example of this name, and print what it has recorded."""
    show(run(name))


def run(name: str) -> Receiver:
    """Run it to its end; give what has received its telemetry."""
    example = Path(__file__).parent / name
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        receiver = stack.enter_context(Receiver())
        with ExitStack() as running:
            port = start(running, example, variables(receiver, folder))
            for order in ORDERS:
                place(port, order)
            wait(lambda: has_ended(receiver))
        return receiver


def variables(receiver: Receiver, folder: str) -> dict[str, str]:
    """Give the environment of all processes."""
    theirs = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "SENTRY_"))}
    theirs.pop("CELERY_BROKER_URL", None)
    ours = {
        "NO_PROXY": "127.0.0.1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "PYTHONUNBUFFERED": "1",
        "SENTRY_DSN": receiver.dsn,
        "SHOP_FOLDER": folder,
    }
    return theirs | ours


def start(stack: ExitStack, example: Path, environment: dict[str, str]) -> int:
    """Start the processes of the Procfile in its order; give the port of the pages."""
    os.chdir(example)
    port = free_port()
    for line in Path("Procfile").read_text(encoding="utf-8").splitlines():
        name, _, command = line.partition(": ")
        program, *words = shlex.split(command.replace("$PORT", str(port)))
        module = [] if program == "python" else ["-m", program]
        print(f"starting {name}: {command}")
        process = stack.enter_context(
            Process([sys.executable, *module, *words], environment=environment)
        )
        await_ready(name, process, port)
    return port


def await_ready(name: str, process: Process, port: int) -> None:
    """Wait until a process does its work, or, if it is none that stays, has done it."""
    text = READY.get(name)
    if name == "web":
        is_ready = comes_up(process, port)
    elif text is None:
        is_ready = process.wait(TIMEOUT) == 0
    else:
        is_ready = process.wait_for_line(lambda line: text in line, TIMEOUT) is not None
    if not is_ready:
        raise SystemExit("\n".join([f"{name} did not start:", *process.lines[-15:]]))


def comes_up(process: Process, port: int) -> bool:
    """Wait until a process serves its port; False if it ends before, or takes too long."""
    end = time.monotonic() + TIMEOUT
    while not listens(port):
        if time.monotonic() > end or process.wait(0.05) is not None:
            return False
    return True


def free_port() -> int:
    """Give a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Tell whether somebody accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def place(port: int, order: int) -> None:
    """Order something."""
    url = f"http://127.0.0.1:{port}/orders/{order}"
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=TIMEOUT):
        print(f"placed order {order}")


def has_ended(receiver: Receiver) -> bool:
    """Tell whether both orders were worked on."""
    runs = [span for span in receiver.spans if span.name == "run shop.tasks.charge_card"]
    return len(runs) == len(ORDERS) and bool(receiver.events)


def wait(done: Callable[[], bool]) -> None:
    """Wait for something, up to the time limit."""
    end = time.monotonic() + TIMEOUT
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"nothing came in {TIMEOUT:.0f} s")
        time.sleep(0.05)


def show(receiver: Receiver) -> None:
    """Print the trace of each request, and the issue."""
    for trace in assemble(receiver.spans):
        if any(root.span.kind == "server" for root in trace.roots):
            report.heading("A request")
            click.echo("\n".join(f"  {line}" for line in tree.lines(trace)))
    for event in receiver.events:
        report.heading("The Sentry issue")
        click.echo("\n".join(f"  {line}" for line in tree.issue_lines(issue(event))))


if __name__ == "__main__":
    main(sys.argv[1])
