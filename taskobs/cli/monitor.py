"""``taskobs monitor``."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Final

import click

from taskobs.cli.finite_range import FiniteRange

if TYPE_CHECKING:
    from celery import Celery

    from taskobs.celery.queues.reader import QueueReader

_INTERVAL: Final = 15.0
_WATCH_INTERVAL: Final = 2.0
_CLEAR: Final = "\033[2J\033[H"


@click.command()
@click.option("-A", "--app", "app_name", required=True, help="The Celery app, as `celery -A`.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    envvar="TASKOBS_METRICS_PORT",
    help="Serve /metrics for Prometheus and /queues as JSON; 0 is any free port.",
)
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    envvar="TASKOBS_METRICS_ADDRESS",
    help="The address to serve them at.",
)
@click.option(
    "--interval",
    type=FiniteRange(min=0.1, max=3600),
    help=f"Seconds between two polls: {_INTERVAL:g}, with --watch {_WATCH_INTERVAL:g}.",
)
@click.option("-Q", "--queues", default="", help="More queues, separated by commas.")
@click.option(
    "--broker-api",
    envvar="TASKOBS_BROKER_API",
    metavar="URL",
    help="RabbitMQ's management API: http://user:password@host:15672.",
)
@click.option("--once", is_flag=True, help="Poll once and print a table.")
@click.option("--watch", is_flag=True, help="Print a table again and again.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print JSON, as /queues has it.")
def monitor(  # noqa: PLR0913  # one argument an option, all keywords
    *,
    app_name: str,
    port: int | None,
    address: str,
    interval: float | None,
    queues: str,
    broker_api: str | None,
    once: bool,
    watch: bool,
    as_json: bool,
) -> None:
    """Export what waits in the queues of an app: to Prometheus, over OTLP, as JSON.

    Messages that are ready and unacked, the age of the oldest, and consumers, of each queue that
    the app's configuration or its workers name. One monitor is enough for a broker.
    """
    from taskobs.celery.queues.reader import QueueReader

    app = _load(app_name)
    more = [name.strip() for name in queues.split(",")]
    reader = QueueReader(app, more=more, broker_api=broker_api)
    if once or as_json:
        _print_once(reader, as_json=as_json)
    elif watch:
        _print_again_and_again(reader, interval or _WATCH_INTERVAL)
    else:
        _run(app, reader, interval or _INTERVAL, port=port, address=address)


def _load(name: str) -> Celery:
    from taskobs.monitor.loading import AppNotFound, load_app

    try:
        return load_app(name)
    except AppNotFound as error:
        raise click.ClickException(str(error)) from None


def _print_once(reader: QueueReader, *, as_json: bool) -> None:
    from taskobs.celery.queues.reader import BrokerError
    from taskobs.monitor.latest import as_json as json_of
    from taskobs.monitor.table import table

    try:
        reading = reader.read()
    except BrokerError as error:
        raise click.ClickException(f"{reader.broker} can't be asked: {error}") from None
    finally:
        reader.close()
    click.echo(json_of(reading) if as_json else table(reading))


def _print_again_and_again(reader: QueueReader, interval: float) -> None:
    from taskobs.celery.queues.reader import BrokerError
    from taskobs.monitor.table import table

    clear = _CLEAR if sys.stdout.isatty() else ""
    with _until_signal(), closing(reader):
        while True:
            try:
                text = table(reader.read())
            except BrokerError as error:
                text = f"{reader.broker} can't be asked, trying again: {error}"
            click.echo(f"{clear}{time.strftime('%H:%M:%S')}  {reader.broker}\n{text}\n")
            time.sleep(interval)


def _run(
    app: Celery, reader: QueueReader, interval: float, *, port: int | None, address: str
) -> None:
    from taskobs.errors import TaskobsError
    from taskobs.metrics.prometheus.server import ServeError
    from taskobs.monitor.run import Monitor, NothingToExport, Options

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    log = logging.getLogger("taskobs")
    if log.level == logging.NOTSET:  # an app may have set the root's to WARNING
        log.setLevel(logging.INFO)
    options = Options(interval=interval, port=port, address=address)
    try:
        with _until_signal():
            Monitor(app, reader, options).run()
        log.info("taskobs monitor: ended")
    except (TaskobsError, NothingToExport, ServeError) as error:
        raise click.ClickException(str(error)) from None


@contextmanager
def _until_signal() -> Generator[None]:
    """Leave the block at SIGTERM or Ctrl-C, at once: a broker that hangs is not waited for."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
