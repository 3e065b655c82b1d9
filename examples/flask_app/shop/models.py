"""The tables."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from shop.extensions import database


class Order(database.Model):
    """What somebody has ordered."""

    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="new")
