"""The shop, with a task that takes its messages in batches."""

# celery-batches ships no types.
# pyright: reportMissingImports=false, reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

import logging
from typing import Any

from celery_batches import Batches

from tests.live.apps.shop import add, app

__all__ = ["add", "alone", "app", "index"]


@app.task(base=Batches, flush_every=5, flush_interval=600)
def index(requests: list[Any]) -> None:
    """Index five orders at once; fail if one of them is to fail."""
    logging.getLogger(__name__).warning("a batch of %d", len(requests))
    if any(request.args == ["bad"] for request in requests):
        msg = "no such order"
        raise KeyError(msg)


@app.task(base=Batches, flush_every=1, flush_interval=600)
def alone(requests: list[Any]) -> None:
    """Be a batch of one message."""
    logging.getLogger(__name__).debug("a batch of %d", len(requests))
