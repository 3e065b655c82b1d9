"""Taskobs in a Flask app: the line is beside ``Celery(...)``."""

from __future__ import annotations

from celery import Celery
from flask import Flask

import taskobs

celery = Celery("flask_shop", broker="redis://localhost:6379/0")
taskobs.init()
app = Flask(__name__)


@celery.task
def charge_card(order: int) -> None:
    """Ask the bank."""
    print(f"order {order}: paid")


@app.post("/orders/<int:order>")
def place_order(order: int) -> tuple[str, int]:
    """Take an order."""
    charge_card.delay(order)
    return "", 202
