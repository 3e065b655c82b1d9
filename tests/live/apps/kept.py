"""The app of the tests of ``keep``: a task with spans inside it, which ends as it is told."""

from __future__ import annotations

import os
import signal
import time

from opentelemetry import trace

from tests.live.apps.shop import app

__all__ = ["app", "work"]


@app.task
def work(how: str) -> None:
    """Make a span that ends and one that is open at the end: ``succeed``, ``fail`` or ``die``."""
    tracer = trace.get_tracer("kept")
    with tracer.start_as_current_span("query"):
        pass
    with tracer.start_as_current_span("step"):
        if how == "fail":
            raise ValueError("boom")
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(30)
