"""Runs the demo: starts receiver and worker, places orders, shows the outcome, cleans up."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import webbrowser
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskobs.testing.receiver import Receiver
from taskobs.view import tree
from taskobs.view.demo import report
from taskobs.view.demo.process import Process
from taskobs.view.demo.report import Order
from taskobs.view.demo.target import Target, warn_of_silence

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from types import FrameType

READY_TIMEOUT = 90.0
ORDERS_TIMEOUT = 120.0
SHOP = "taskobs.view.demo.shop"
DISABLING = ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "TASKOBS_ENABLED", "TASKOBS_LOG_IDS")


class DemoError(click.ClickException):
    """A part of the demo failed; the message ends with the worker's last lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    page: Path = Path("taskobs-demo.html")
    keep: bool = False
    """Keep the folder with messages, results and the worker's log."""
    open: bool = False
    """Show the page in the browser."""


def run(options: Options, environment: Mapping[str, str] = os.environ) -> None:
    """Run the demo and print what it shows; raises `DemoError`."""
    began = time.monotonic()
    if not options.page.resolve().parent.is_dir():
        raise DemoError(f"--page: there is no folder {options.page.resolve().parent}")
    target = Target.of(environment)
    click.echo(click.style("taskobs demo", bold=True) + "  a shop on Celery, watched by one line\n")
    warn_of_silence(target)
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        folder = stack.enter_context(_workspace(keep=options.keep))
        receiver = stack.enter_context(Receiver())
        variables = _variables(environment, target, receiver, folder)
        orders, log = _serve(variables)
        (folder / "worker.log").write_text("\n".join(log), encoding="utf-8")
        if html := report.show(target, orders, receiver, log):
            _write_page(options, html)
    click.echo(click.style(f"\n{time.monotonic() - began:.1f} s in all", dim=True))


def _serve(variables: dict[str, str]) -> tuple[list[Order], Sequence[str]]:
    """Run worker and producer to their ends; both have sent all they had then."""
    worker_command = [sys.executable, "-m", "celery", "-A", SHOP, "worker", "--pool", "prefork"]
    worker_command += ["-c", "2", "-l", "INFO", "--without-gossip", "--without-mingle"]
    with Process(
        worker_command, environment=variables | {"OTEL_SERVICE_NAME": "shop-worker"}
    ) as worker:
        with _step("start a prefork worker with two children"):
            if worker.wait_for_line(lambda line: " ready." in line, READY_TIMEOUT) is None:
                raise _failed("The worker did not start", worker)
        with _step("place two orders and wait for them"):
            orders = _orders(variables | {"OTEL_SERVICE_NAME": "shop-web"}, worker)
        with _step("stop the worker; nothing it knows is lost"):
            if worker.stop() != 0:
                raise _failed("The worker did not stop as asked", worker)
        return orders, worker.lines


def _orders(variables: dict[str, str], worker: Process) -> list[Order]:
    command = [sys.executable, "-m", "taskobs.view.demo.checkout"]
    with Process(command, environment=variables) as producer:
        code = producer.wait(ORDERS_TIMEOUT)
        if code is None:
            raise _failed("The orders were not done in time", worker)
        if code:
            raise _failed("The producer failed", producer)
        return [Order(**json.loads(line)) for line in producer.lines if line.startswith("{")]


def _variables(
    environment: Mapping[str, str], target: Target, receiver: Receiver, folder: Path
) -> dict[str, str]:
    """The environment of worker and producer: the user's, completed by the receiver's address."""
    variables = {key: value for key, value in environment.items() if key not in DISABLING}
    variables |= {"SHOP_FOLDER": str(folder), "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    if target.otlp is None:
        variables = {k: v for k, v in variables.items() if not k.startswith("OTEL_")}
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.endpoint
    if target.sentry is None:
        variables["SENTRY_DSN"] = receiver.dsn
    if None in {target.otlp, target.sentry}:  # the receiver is on this machine: no proxy
        for name in ("NO_PROXY", "no_proxy"):
            variables[name] = ",".join(filter(None, (environment.get(name), "127.0.0.1")))
    return variables


def _write_page(options: Options, html: str) -> None:
    path = options.page.resolve()
    path.write_text(html, encoding="utf-8")
    report.heading("The same as a page")
    click.echo(f"  {path.as_uri()}")
    if options.open:
        webbrowser.open(path.as_uri())


@contextmanager
def _step(text: str) -> Generator[None]:
    """Show what is being done, then a tick and the seconds it took."""
    began = time.monotonic()
    live = sys.stdout.isatty()
    if live:
        click.echo(f"  … {text}", nl=False)
    yield
    tick = click.style("✓", fg="green")
    took = click.style(f"{time.monotonic() - began:.1f} s", dim=True)
    click.echo(f"{chr(13) if live else ''}  {tick} {text}  {took}")


@contextmanager
def _workspace(*, keep: bool) -> Generator[Path]:
    """Give a folder that is deleted at the end, or kept and named."""
    if keep:
        folder = Path(tempfile.mkdtemp(prefix="taskobs-demo-"))
        yield folder
        click.echo(f"\nkept: {folder}")
        return
    with tempfile.TemporaryDirectory(prefix="taskobs-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def _terminable() -> Generator[None]:
    """Let a TERM end the demo as Ctrl-C does: through all its clean-ups."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _failed(text: str, process: Process) -> DemoError:
    tail = "\n".join(f"  {tree.printable(line)}" for line in process.lines[-15:])
    return DemoError(f"{text}. Its last lines:\n{tail}")
