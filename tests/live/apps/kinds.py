"""The shop and a second app beside it, with tasks of all kinds that Celery lets one write."""

# What a task is made of has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedBaseClass=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery import Celery, Task, shared_task
from celery.utils.log import get_task_logger
from celery.worker.request import Request
from pydantic import BaseModel

from tests.live.apps.shop import add, app, fail

__all__ = ["add", "app", "fail"]

log = get_task_logger(__name__)
other = Celery("other", broker=os.environ["APP_BROKER"], backend=os.environ["APP_BACKEND"])
other.conf.update(task_default_queue="other")
app.set_current()  # whose tasks the shared ones are, not those of the app that was made last


def saying(what: str) -> Callable[..., None]:
    """Give a method of a task that logs ``what``."""

    def hook(self: Task[Any, Any], *_: object) -> None:
        log.warning("task: %s %s", self.request.id, what)

    return hook


class LoudRequest(Request):
    """A request class of the user's own."""

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        """Tell when a run begins."""
        log.warning("request: %s accepted", self.id)
        super().on_accepted(pid, time_accepted)

    def on_failure(self, exc_info: Any, *how: Any, **named: Any) -> None:
        """Tell of a failure."""
        log.warning("request: %s failed", self.id)
        super().on_failure(exc_info, *how, **named)


class LoudTask(Task):  # type: ignore[type-arg]  # takes no parameters before Celery 5.6
    """A task class of the user's own, that overrides what one may."""

    Request = f"{LoudRequest.__module__}:{LoudRequest.__name__}"
    before_start = saying("starts")
    on_success = saying("succeeded")
    on_failure = saying("failed")
    after_return = saying("returned")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Wrap each call."""
        log.warning("task: %s called", self.request.id)
        return super().__call__(*args, **kwargs)


class Order(BaseModel):
    """What a pydantic task takes."""

    number: int


def divide(number: int) -> int:
    """Succeed, or fail with 0."""
    return 12 // number


loud = app.task(base=LoudTask, name="kinds.loud")(divide)
shared = shared_task(name="kinds.shared")(divide)
elsewhere = other.task(name="kinds.elsewhere")(divide)


@app.task(bind=True, name="kinds.bound")
def bound(self: Task[Any, Any], number: int) -> Any:
    """Have the task as the first argument."""
    return divide(number), self.request.id


@app.task(pydantic=True, name="kinds.modelled")
def modelled(order: Order) -> Order:
    """Take and give a model."""
    return Order(number=divide(order.number))
