"""The shop of somebody who has more exporters: a second one for spans, and metrics of his own.

SDKs that trace language models add their processor to the provider that is there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.live.apps.shop import app as app  # noqa: PLC0414  # it calls taskobs.init()

AT_A_FLUSH = 3_600_000
"""Milliseconds: as good as never, but for flushes."""


def with_pid(data: MetricsData) -> str:
    """Write metrics as a line, with the process that exports them."""
    return json.dumps({"pid": os.getpid(), **json.loads(data.to_json(indent=None))}) + "\n"


exporter = OTLPSpanExporter(endpoint=os.environ["APP_SECOND"] + "/v1/traces")
second = BatchSpanProcessor(exporter, schedule_delay_millis=AT_A_FLUSH)
cast("TracerProvider", trace.get_tracer_provider()).add_span_processor(second)
written = Path(os.environ["APP_METRICS"]).open("a", encoding="utf-8")  # noqa: SIM115  # to its end
reader = PeriodicExportingMetricReader(
    ConsoleMetricExporter(written, formatter=with_pid), export_interval_millis=AT_A_FLUSH
)
metrics.set_meter_provider(MeterProvider([reader]))
orders = metrics.get_meter("shop").create_counter("orders")


@app.task
def order() -> None:
    """Count an order, in a span of its own."""
    with trace.get_tracer("shop").start_as_current_span("ordering"):
        orders.add(1)
