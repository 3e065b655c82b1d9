"""Taskobs in a FastAPI app: the line is beside ``Celery(...)``."""

from __future__ import annotations

from celery import Celery
from fastapi import FastAPI

import taskobs

celery = Celery("fastapi_shop", broker="redis://localhost:6379/0")
taskobs.init()

app = FastAPI()


@celery.task
def charge_card(order: int) -> None:
    """Ask the bank."""
    print(f"order {order}: paid")


@app.post("/orders/{order}", status_code=202)
def place_order(order: int) -> None:
    """Take an order."""
    charge_card.delay(order)
