"""The shop of somebody whose task logs in threads, and by other ways than a logger's."""

# structlog and the instrumentor have types that pyright finds too few.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import structlog
from opentelemetry import trace
from opentelemetry.instrumentation.threading import ThreadingInstrumentor

import taskobs

ThreadingInstrumentor().instrument()

from tests.live.apps.shop import *  # noqa: E402, F403  # it calls taskobs.init()
from tests.live.apps.shop import app as app  # noqa: E402, PLC0414

structlog.configure(processors=[taskobs.log_fields, structlog.processors.JSONRenderer()])
log = logging.getLogger("shop")
tracer = trace.get_tracer("shop")


class Direct(logging.Logger):
    """Calls the handlers by itself, as absl's does."""

    def handle(self, record: logging.LogRecord) -> None:
        """Pass a record on."""
        self.callHandlers(record)


direct = Direct("direct")
direct.parent = logging.getLogger()


def work(where: str) -> None:
    """Log, in a span."""
    with tracer.start_as_current_span(where):
        log.warning("in %s", where)


@app.task
def logs_everywhere() -> None:
    """Log in all ways that there are."""
    log.warning("in the task")
    thread = threading.Thread(target=work, args=("a thread",))
    thread.start()
    thread.join()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(work, "an executor").result()
    direct.warning("in a logger of its own kind")
    record = logging.makeLogRecord({"msg": "in a record", "levelno": 30, "levelname": "WARNING"})
    for handler in logging.getLogger().handlers:
        handler.handle(record)
    structlog.get_logger().warning("in structlog")
