"""A MeterProvider of one's own, which the app ``counted`` sets up where ``APP_METRICS`` is set.

That is where its reader exports. With ``APP_IN_CHILDREN``, only pool children set it, as
OpenTelemetry documents it. ``APP_DELTA`` has the reader export deltas.
"""

from __future__ import annotations

import os

from celery import signals
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource

DELTA: dict[type, AggregationTemporality] = dict.fromkeys(
    (Counter, Histogram), AggregationTemporality.DELTA
)
EXPORTED_BY = {"x-key": "secret"}


def set_up(**_: object) -> None:
    """Set the provider."""
    exporter = OTLPMetricExporter(
        os.environ["APP_METRICS"],
        headers=EXPORTED_BY,
        preferred_temporality=DELTA if "APP_DELTA" in os.environ else None,
    )
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=500)
    provider = MeterProvider(
        metric_readers=[reader],
        # Each process has another one, as OpenTelemetry documents it for servers that fork.
        resource=Resource.create({"service.name": "own", "worker": os.getpid()}),
        views=[View(instrument_name="counted.length", name="counted.letters")],
    )
    metrics.set_meter_provider(provider)


def set_up_in_child(**_: object) -> None:
    """Set the provider, and a gauge, which is no sum: each process exports its own."""
    set_up()
    metrics.get_meter("counted", "1.5").create_gauge("counted.level").set(os.getpid())


if "APP_IN_CHILDREN" in os.environ:
    signals.worker_process_init.connect(set_up_in_child, weak=False)
else:
    set_up()
