"""The app whose tasks the pictures of the dashboards show: a shop with two queues."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

from celery import Celery

import taskobs

if TYPE_CHECKING:
    from celery import Task

app = Celery("shop", broker=os.environ["APP_BROKER"], backend=os.environ["APP_BACKEND"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    task_routes={"shop.monthly_report": {"queue": "reports"}},
    task_create_missing_queues=True,
    worker_prefetch_multiplier=2,
)
taskobs.init()
_chance = random.Random(7)  # noqa: S311  # what a shop's day is like


class CardDeclinedError(Exception):
    """The bank said no: the task expects it."""


class CarrierTimeoutError(Exception):
    """The carrier did not answer in time."""


class AddressUnknownError(Exception):
    """Nobody lives there."""


class OutOfStockError(Exception):
    """There is nothing left to pack."""


@app.task(name="shop.charge_card", throws=(CardDeclinedError,))
def charge_card() -> None:
    """Ask the bank."""
    time.sleep(random.uniform(0.05, 0.3))  # noqa: S311  # how long banks take
    if random.random() < 0.05:  # noqa: PLR2004, S311  # how often they say no
        raise CardDeclinedError


@app.task(name="shop.pack_item")
def pack_item() -> None:
    """Pack one item; some CPU time goes into its box."""
    end = time.thread_time() + random.uniform(0.005, 0.05)  # noqa: S311  # large and small ones
    while time.thread_time() < end:
        pass
    if random.random() < 0.02:  # noqa: PLR2004, S311  # how often the stock is wrong
        raise OutOfStockError


@app.task(name="shop.book_carrier", bind=True, max_retries=3)
def book_carrier(self: Task[Any, Any]) -> None:
    """Book the van; the carrier does not always answer."""
    time.sleep(random.uniform(0.1, 0.6))  # noqa: S311  # how long carriers take
    if random.random() < 0.03:  # noqa: PLR2004, S311  # how often an order has none
        raise AddressUnknownError
    if random.random() < 0.2:  # noqa: PLR2004, S311  # how often they don't answer
        raise self.retry(exc=CarrierTimeoutError("no answer"), countdown=1)


@app.task(name="shop.send_receipt")
def send_receipt() -> None:
    """Thank the customer."""
    time.sleep(0.02)


@app.task(name="shop.monthly_report")
def monthly_report() -> None:
    """Take long, and now and then all the memory that there is."""
    time.sleep(random.uniform(2, 12))  # noqa: S311  # large and small months
    if random.random() < 0.1:  # noqa: PLR2004, S311  # how often memory is short
        os.kill(os.getpid(), signal.SIGKILL)


def publish_orders(seconds: float) -> None:
    """Publish what customers order, more of them in the middle of the time than at its ends."""
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        busy = 1 - abs(2 * elapsed / seconds - 1)
        for task in (charge_card, pack_item, pack_item, book_carrier, send_receipt):
            task.delay()
        if _chance.random() < 0.1:  # noqa: PLR2004  # how often somebody asks for one
            monthly_report.delay()
        if _chance.random() < 0.02:  # noqa: PLR2004  # how often nobody wants it any more
            send_receipt.apply_async(expires=-1)
        time.sleep(_chance.uniform(0.15, 0.45) / (0.3 + busy))
