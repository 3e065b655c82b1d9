"""Threads of a run, where Sentry and OpenTelemetry both instrument `threading`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.paths import ROOT

SCRIPT = """
import json, sys, threading
from concurrent.futures import ThreadPoolExecutor
from celery import Celery
from opentelemetry import trace
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import taskobs

kept = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)
app = Celery("shop", broker="memory://")
steps = {
    "init": lambda: taskobs.init(sentry_dsn="http://key@127.0.0.1:9/1", strict=True),
    "instrument": lambda: ThreadingInstrumentor().instrument(),
}
for step in sys.argv[1].split():
    steps[step]()

def work(name):
    trace.get_tracer("shop").start_span(name).end()

class Mine(threading.Thread):
    def run(self):
        work("subclass")
        super().run()

@app.task(name="calls")
def calls():
    threads = [
        threading.Thread(target=work, args=("thread",)),
        threading.Timer(0, work, args=("timer",)),
        Mine(target=work, args=("super",)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(work, "executor").result()

calls.apply()
spans = {span.name: span for span in kept.get_finished_spans()}
run = spans.pop("run calls").get_span_context()
print(json.dumps({
    name: span.parent is not None and span.parent.span_id == run.span_id
    for name, span in spans.items()
}))
"""


@pytest.mark.parametrize("order", ["init instrument", "instrument init"])
def test_a_span_in_a_thread_of_a_run_is_in_its_trace(order: str) -> None:
    """I instrument `threading`, and a DSN brings Sentry's wrapper too: threads keep the trace."""
    pytest.importorskip("opentelemetry.instrumentation.threading")
    command = [sys.executable, "-c", SCRIPT, order]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    # The instrumentor wraps the method of the base class, which this one overrides.
    assert found.pop("subclass") is False
    assert found == {"thread": True, "timer": True, "super": True, "executor": True}
