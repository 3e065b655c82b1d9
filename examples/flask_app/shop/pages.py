"""The pages: taking an order."""

from __future__ import annotations

from flask import Blueprint

from shop.extensions import database
from shop.models import Order
from shop.tasks import charge_card

pages = Blueprint("pages", __name__)


@pages.post("/orders/<int:number>")
def place_order(number: int) -> tuple[str, int]:
    """Take an order, and have it paid."""
    database.session.merge(Order(number=number))
    database.session.commit()
    charge_card.delay(number)
    return "", 202
