"""What runs in the worker."""

from celery import shared_task


@shared_task
def charge_card(order: int) -> None:
    """Ask the bank."""
    print(f"order {order}: paid")
