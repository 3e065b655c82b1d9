"""What runs in the worker; no task knows the Celery app."""

from celery import shared_task
from celery.utils.log import get_task_logger

from .models import Order

logger = get_task_logger(__name__)
DECLINED = 1002


class CardDeclinedError(Exception):
    """The bank said no."""


@shared_task
def charge_card(number: int) -> None:
    """Ask the bank; raises `CardDeclinedError`."""
    state = "declined" if number == DECLINED else "paid"
    Order.objects.filter(number=number).update(state=state)
    logger.info("order %s: %s", number, state)
    if number == DECLINED:
        raise CardDeclinedError("insufficient funds")


@shared_task
def report() -> int:
    """Count the orders; beat publishes it each hour."""
    return Order.objects.count()
