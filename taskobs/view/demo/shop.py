"""A shop, as a user of taskobs would write it: the one line is ``taskobs.init()``.

It needs no server: messages and results are files in the folder that ``SHOP_FOLDER`` names.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Celery, chain, chord
from celery.utils.log import get_task_logger

import taskobs
from taskobs.view.demo import folder

if TYPE_CHECKING:
    from celery.app.task import Task

FOLDER = Path(os.environ.get("SHOP_FOLDER", "shop-folder")).resolve()
DECLINED = "4000 0000 0000 0002"
LOG_FORMAT = (
    "%(asctime)s %(levelname)s %(message)s"
    " task_name=%(task_name)s task_id=%(task_id)s trace_id=%(trace_id)s span_id=%(span_id)s"
)

for name in ("messages", "control", "results"):
    (FOLDER / name).mkdir(parents=True, exist_ok=True)

folder.register()
app = Celery("shop", broker=f"{folder.SCHEME}://", backend=(FOLDER / "results").as_uri())
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(FOLDER / "messages"),
        "data_folder_out": str(FOLDER / "messages"),
        "control_folder": str(FOLDER / "control"),
        "polling_interval": 0.05,
    },
    result_chord_retry_interval=0.1,
    worker_prefetch_multiplier=1,
    worker_task_log_format=LOG_FORMAT,
    worker_redirect_stdouts=False,
    worker_timer_precision=0.05,
)
taskobs.init()

logger = get_task_logger(__name__)


class CardDeclinedError(Exception):
    """The bank said no."""


class CarrierTimeoutError(Exception):
    """The carrier did not answer in time."""


@app.task(name="shop.place_order")
def place_order(order: int, items: list[str], card: str) -> object:
    """Start an order's work; give the result of its last step, as a tuple."""
    work(0.02)
    logger.info("order %s: %s items", order, len(items))
    steps = chain(
        reserve_stock.si(order, items),
        charge_card.si(order, card),
        chord([pack_item.si(order, item) for item in items], book_carrier.si(order)),
        send_receipt.si(order),
    )
    return steps.apply_async().as_tuple()


@app.task(name="shop.reserve_stock")
def reserve_stock(order: int, items: list[str]) -> None:
    """Take the items out of the stock."""
    work(0.03)
    logger.info("order %s: reserved %s", order, ", ".join(items))


@app.task(name="shop.charge_card")
def charge_card(order: int, card: str) -> None:
    """Ask the bank; raises `CardDeclinedError`."""
    work(0.08)
    if card == DECLINED:
        logger.warning("order %s: the bank declined the card", order)
        raise CardDeclinedError("insufficient funds")
    logger.info("order %s: paid", order)


@app.task(name="shop.pack_item")
def pack_item(order: int, item: str) -> str:
    """Put one item into the box."""
    work(0.01 * len(item))
    logger.info("order %s: packed %s", order, item)
    return item


@app.task(name="shop.book_carrier", bind=True, max_retries=3)
def book_carrier(self: Task[..., object], order: int) -> None:
    """Book the van; the carrier does not answer the first time."""
    work(0.04)
    if not self.request.retries:
        error = CarrierTimeoutError("no answer from the carrier")
        raise self.retry(exc=error, countdown=0.5)
    logger.info("order %s: carrier booked", order)


@app.task(name="shop.send_receipt")
def send_receipt(order: int) -> None:
    """Thank the customer."""
    work(0.02)
    logger.info("order %s: receipt sent", order)


def work(seconds: float) -> None:
    """Stand in for a database or a remote service."""
    time.sleep(seconds)
