"""The Celery app, the line beside it, and what runs in the worker."""

from __future__ import annotations

import os

from celery import Celery
from celery.utils.log import get_task_logger

import taskobs
from shop.database import FOLDER, cursor

DECLINED = 1002
IN_A_FOLDER = {
    "data_folder_in": f"{FOLDER}/messages",
    "data_folder_out": f"{FOLDER}/messages",
    "control_folder": f"{FOLDER}/control",
    "polling_interval": 0.1,
}

celery = Celery("fastapi_shop", broker=os.environ.get("CELERY_BROKER_URL", "filesystem://"))
if celery.conf.broker_url.startswith("filesystem"):
    celery.conf.broker_transport_options = IN_A_FOLDER
celery.conf.task_ignore_result = True
taskobs.init(instrument=True)
logger = get_task_logger(__name__)


class CardDeclinedError(Exception):
    """The bank said no."""


@celery.task
def charge_card(number: int) -> None:
    """Ask the bank; raises `CardDeclinedError`."""
    state = "declined" if number == DECLINED else "paid"
    with cursor() as orders:
        orders.execute("UPDATE orders SET state = ? WHERE number = ?", (state, number))
    logger.info("order %s: %s", number, state)
    if number == DECLINED:
        raise CardDeclinedError("insufficient funds")
