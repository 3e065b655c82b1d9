"""The app's OpenTelemetry."""

from __future__ import annotations

import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def init_app() -> None:
    """Set a provider."""
    provider = TracerProvider(resource=Resource.create({"service.name": "the app's own"}))
    exporter = OTLPSpanExporter(endpoint=os.environ["APP_OTLP"] + "/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
