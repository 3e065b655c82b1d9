"""The tables."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """What somebody has ordered."""

    number = models.IntegerField(primary_key=True)
    state = models.CharField(max_length=20, default="new")

    def __str__(self) -> str:
        return f"order {self.number}: {self.state}"
