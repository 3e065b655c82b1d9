"""The shop of somebody who has a provider of their own: two exporters and one more processor.

``APP_OTLP`` and ``APP_OTHER`` are where the exporters send. Without them, no provider is set here:
`opentelemetry-instrument` may have set one. With ``APP_IN_CHILDREN``, only pool children set it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from celery import signals
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from tests.live.apps.shop import *  # noqa: F403  # it calls taskobs.init()
from tests.live.apps.shop import app as app  # noqa: PLC0414

EXPORTED_BY = {"x-key": "secret"}


def note(file: str, text: str) -> None:
    """Append a line, which a kill of this process leaves there."""
    with Path(os.environ["APP_NOTES"], file).open("a") as notes:
        notes.write(f"{text}\n")


class Buffering(SpanProcessor):
    """Notes the names of spans when it is flushed."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep the name."""
        self._names.append(span.name)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Note what was kept."""
        del timeout_millis
        while self._names:
            note("buffered", self._names.pop())
        return True


def set_up(**_: object) -> None:
    """Set the provider."""
    provider = TracerProvider(resource=Resource.create({"service.name": "own"}))
    exporter = OTLPSpanExporter(os.environ["APP_OTLP"], headers=EXPORTED_BY)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    provider.add_span_processor(Buffering())
    trace.set_tracer_provider(provider)
    other = OTLPSpanExporter(os.environ["APP_OTHER"])
    provider.add_span_processor(SimpleSpanProcessor(other))


if "APP_IN_CHILDREN" in os.environ:
    signals.worker_process_init.connect(set_up, weak=False)
elif "APP_OTLP" in os.environ:
    set_up()


@app.task
def end_spans(name: str, number: int, *, die: bool = False) -> None:
    """End some spans, and note each; then die if asked to, at once."""
    for n in range(number):
        trace.get_tracer("shop").start_span(f"{name}-{n}").end()
        note("ended", f"{name}-{n}")
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
