"""An app with many faults, each of which ``taskobs doctor`` has to find."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery, signals
from kombu import transport as transports
from kombu.transport import redis

import taskobs

DROPPED = ("traceparent", "tracestate", "baggage", "sentry-trace", "headers")


class Channel(redis.Channel):
    """Sends a message without what carries its trace."""

    def _put(self, queue: str, message: dict[str, Any], **more: Any) -> None:
        kept = {name: value for name, value in message["headers"].items() if name not in DROPPED}
        super()._put(queue, {**message, "headers": kept}, **more)


class Transport(redis.Transport):
    """That of Redis, but for headers."""

    Channel = Channel


transports.TRANSPORT_ALIASES["dropping"] = f"{__name__}:Transport"
app = Celery("shop", broker=os.environ["APP_BROKER"])
FAULT = os.environ.get("APP_FAULT", "")

if FAULT == "many":
    app.conf.update(task_always_eager=True, worker_send_task_events=True)

    @signals.setup_logging.connect(weak=False)
    def set_up_logging(**_: object) -> None:
        """Write lines without ids."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

    @signals.worker_process_init.connect(weak=False)
    def set_up_tracing(**_: object) -> None:
        """Set tracing up where there is a pool of processes."""


elif FAULT == "slow":

    @signals.worker_init.connect(weak=False)
    def wait(**_: object) -> None:
        """Never get ready."""
        Path(os.environ["APP_STARTED"]).write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(600)


elif FAULT == "start" and "worker" in sys.argv:
    raise SystemExit("there are no tables")

taskobs.init()
