"""The pages: taking an order."""

from __future__ import annotations

from fastapi import FastAPI

from shop.database import TABLE, cursor
from shop.tasks import charge_card

app = FastAPI()
with cursor() as setup:
    setup.execute(TABLE)


@app.post("/orders/{number}", status_code=202)
def place_order(number: int) -> None:
    """Take an order, and have it paid."""
    with cursor() as orders:
        orders.execute("INSERT OR REPLACE INTO orders VALUES (?, 'new')", (number,))
    charge_card.delay(number)
