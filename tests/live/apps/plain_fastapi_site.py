"""A FastAPI app over the shop that has no ``lifespan``: nothing of its own runs at its end."""

from __future__ import annotations

from fastapi import FastAPI

from tests.live.apps.shop import add

web = FastAPI()


@web.get("/buy-many")
def buy_many() -> list[str]:
    """Publish a hundred tasks."""
    return [str(add.delay(1, 2).id) for _ in range(100)]
