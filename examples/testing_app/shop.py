"""A shop whose tasks the tests look at: its one line is ``taskobs.init()``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celery import Celery
from celery.utils.log import get_task_logger
from opentelemetry import metrics, trace

import taskobs

if TYPE_CHECKING:
    from celery.app.task import Task

app = Celery("shop", broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"))
if "SHOP_FOLDER" in os.environ:  # a broker in a folder, which needs no server
    folders = ("data_folder_in", "data_folder_out", "control_folder")
    app.conf.broker_transport_options = {
        **dict.fromkeys(folders, os.environ["SHOP_FOLDER"]),
        "polling_interval": 0.05,
    }
taskobs.init(tasks={"shop.refresh_prices": {"errors": False}})

tracer = trace.get_tracer("shop")
charged = metrics.get_meter("shop").create_counter("shop.charged", "cents")
logger = get_task_logger(__name__)
LIMIT = 100_000


class CardDeclinedError(Exception):
    """The bank said no."""


@app.task(name="shop.charge_card")
def charge_card(order: int, cents: int) -> None:
    """Ask the bank; raises `CardDeclinedError`."""
    with tracer.start_as_current_span("bank.charge"):
        if cents > LIMIT:
            logger.warning("order %s: the bank declined the card", order)
            raise CardDeclinedError("over the limit")
    charged.add(cents, {"currency": "EUR"})


@app.task(name="shop.book_carrier", bind=True, max_retries=3)
def book_carrier(self: Task[..., object], order: int) -> None:
    """Book the van; the carrier does not answer the first time."""
    if not self.request.retries:
        raise self.retry(exc=TimeoutError(f"order {order}: no answer"), countdown=0)


@app.task(name="shop.place_order")
def place_order(order: int, cents: int) -> None:
    """Start an order's work."""
    charge_card.delay(order, cents)
    book_carrier.delay(order)


@app.task(name="shop.refresh_prices")
def refresh_prices() -> None:
    """Ask a server that is often down."""
    raise ConnectionError("no prices today")
