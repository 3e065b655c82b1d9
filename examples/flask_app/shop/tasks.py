"""What runs in the worker; no task knows the Celery app."""

from __future__ import annotations

from celery import shared_task
from celery.utils.log import get_task_logger

from shop.extensions import database
from shop.models import Order

logger = get_task_logger(__name__)
DECLINED = 1002


class CardDeclinedError(Exception):
    """The bank said no."""


@shared_task
def charge_card(number: int) -> None:
    """Ask the bank; raises `CardDeclinedError`."""
    order = database.session.get_one(Order, number)
    order.state = "declined" if number == DECLINED else "paid"
    database.session.commit()
    logger.info("order %s: %s", number, order.state)
    if number == DECLINED:
        raise CardDeclinedError("insufficient funds")


@shared_task
def report() -> int:
    """Count the orders; beat publishes it each hour."""
    return database.session.query(Order).count()
