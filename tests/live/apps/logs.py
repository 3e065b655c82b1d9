"""An app whose logging is set up by Celery, or by itself: the variable LOGGING."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import signal

from celery import Celery
from celery.signals import setup_logging
from celery.utils.log import get_task_logger

import taskobs
from taskobs.view.demo import folder

plain = logging.getLogger("logs.plain")
logger = get_task_logger(__name__)

folder.register()
app = Celery("logs", broker=os.environ["APP_BROKER"], backend=os.environ["APP_BACKEND"])
app.conf.update(
    broker_transport_options=json.loads(os.environ.get("APP_BROKER_OPTIONS", "{}")),
    broker_connection_retry_on_startup=True,
)
taskobs.init()

OWN = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"short": {"format": "%(levelname)s %(message)s"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "short"}},
    "root": {"handlers": ["out"], "level": "INFO"},
}


def set_up(**_: object) -> None:
    """Set logging up, so that Celery does not."""
    logging.config.dictConfig(OWN)


if os.environ.get("LOGGING") == "own":
    setup_logging.connect(set_up)


@app.task
def speak(secret: str) -> str:
    """Log two lines."""
    plain.info("plain line")
    logger.warning("task line", extra={"rack": 7})
    return secret


@app.task
def die() -> None:
    """End the pool child at once."""
    logger.warning("the last words")
    os.kill(os.getpid(), signal.SIGKILL)
