"""A small shop: the one line is ``taskobs.init()``.

The broker is the one that ``CELERY_BROKER_URL`` names, as Celery itself reads that variable.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from celery import Celery, chain
from celery.utils.log import get_task_logger

import taskobs

if TYPE_CHECKING:
    from celery.app.task import Task

app = Celery("quickstart")
app.conf.task_ignore_result = True
app.conf.worker_task_log_format = (
    "%(asctime)s %(levelname)s %(message)s task_id=%(task_id)s trace_id=%(trace_id)s"
)
taskobs.init()

logger = get_task_logger(__name__)
DECLINED = "4000 0000 0000 0002"


class CardDeclinedError(Exception):
    """The bank said no."""


@app.task
def place_order(order: int, card: str) -> None:
    """Start an order's work."""
    chain(reserve_stock.si(order), charge_card.si(order, card), book_carrier.si(order)).delay()


@app.task
def reserve_stock(order: int) -> None:
    """Take the items from the shelf."""
    time.sleep(0.03)
    logger.info("order %s: reserved", order)


@app.task
def charge_card(order: int, card: str) -> None:
    """Ask the bank; raises `CardDeclinedError`."""
    time.sleep(0.08)
    if card == DECLINED:
        logger.warning("order %s: the bank declined the card", order)
        raise CardDeclinedError("insufficient funds")


@app.task(bind=True, max_retries=3)
def book_carrier(self: Task[..., object], order: int) -> None:
    """Book the van; the carrier does not answer the first time."""
    time.sleep(0.04)
    if not self.request.retries:
        raise self.retry(exc=TimeoutError("no answer from the carrier"), countdown=1)
    logger.info("order %s: carrier booked", order)
