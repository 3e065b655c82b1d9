"""The pytest plugin that ``celery_suite.py`` loads into Celery's own test-suite.

It initialises taskobs if ``TASKOBS_SUITE_WITH`` is set, so that spans and events are made and go
nowhere, and writes the outcome of each test to the file that ``TASKOBS_SUITE_OUTCOMES`` names.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from sentry_sdk.transport import Transport

import taskobs


class CountedSpans(SpanExporter):
    """An exporter that only counts spans."""

    number = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take spans."""
        self.number += len(spans)
        return SpanExportResult.SUCCESS


class CountedEvents(Transport):
    """A transport that only counts events."""

    number = 0

    def capture_envelope(self, envelope: Any) -> None:  # noqa: ANN401  # Sentry's
        """Take an envelope."""
        del envelope
        CountedEvents.number += 1


class Outcomes:
    """Collects the outcome of each test, and writes all of them at the end."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[str, str] = {}
        self._spans = CountedSpans()

    def init_taskobs(self) -> None:
        """Initialise taskobs as an app does, with exporters that send nothing."""
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._spans))
        trace.set_tracer_provider(provider)
        # Sentry's own integrations are not what is tested.
        sentry_sdk.init(
            "https://key@sentry.invalid/1", transport=CountedEvents, default_integrations=False
        )
        taskobs.init()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst of set-up, call and tear-down."""
        if report.when == "call" or report.outcome != "passed":
            worst = self._found.get(report.nodeid) == "failed"
            self._found[report.nodeid] = "failed" if worst else report.outcome

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a module that could not be collected."""
        if report.outcome != "passed":
            self._found[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        """Write the outcomes."""
        told = {
            "outcomes": self._found,
            "spans": self._spans.number,
            "events": CountedEvents.number,
        }
        self._file.write_text(json.dumps(told), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to keep outcomes; initialise taskobs if that is asked for."""
    outcomes = Outcomes(Path(os.environ["TASKOBS_SUITE_OUTCOMES"]))
    config.pluginmanager.register(outcomes)
    if os.environ.get("TASKOBS_SUITE_WITH"):
        outcomes.init_taskobs()
        logging.getLogger("taskobs").setLevel(logging.ERROR)
