"""Which provider an app's instruments use, in a process of its own: it can be set once in each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.support.paths import ROOT

BEGIN = """
import json
from opentelemetry import metrics
from taskobs.metrics.counter_memory import CounterMemory
from taskobs.metrics.counter_keys import read_key
from taskobs.otel.app.meters import TaskMeters

def set_by_app():
    global reader
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))

def kept():
    return {read_key(key).name: sum(values) for key, values in memory.sums().items() if any(values)}

def of_app():
    data = reader.get_metrics_data()
    found = [] if data is None else data.resource_metrics[0].scope_metrics
    return {one.name: one.data.data_points[0].value for scope in found for one in scope.metrics}

early = metrics.get_meter("shop").create_counter("early")
memory, ours, reader = CounterMemory(), TaskMeters(), None
"""


def run(script: str, **env: str) -> Any:
    """Run a script in a process, and give what it prints last."""
    done = subprocess.run(  # our own script
        [sys.executable, "-c", BEGIN + script],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=240,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_an_app_that_sets_none_is_measured_here() -> None:
    """I make instruments before and after: all of them are kept, and no global provider is set."""
    found = run("""
installed = ours.install()
ours.measurements.begin(memory.take)
late = metrics.get_meter("shop").create_counter("late")
early.add(1), late.add(2)
print(json.dumps([installed, kept(), type(metrics.get_meter_provider()).__module__]))
""")
    assert found == [True, {"early": 1, "late": 2}, "opentelemetry.metrics._internal"]


def test_an_app_that_sets_its_own_before_is_left_alone() -> None:
    """My app has a MeterProvider: what it measures goes there, and only there."""
    found = run("""
set_by_app()
installed = ours.install()
ours.measurements.begin(memory.take)
early.add(1)
print(json.dumps([installed, kept(), of_app()]))
""")
    assert found == [False, {}, {"early": 1}]


def test_an_app_that_sets_its_own_later_has_it_from_then_on() -> None:
    """I set a MeterProvider in each pool process: it is not refused, and my instruments use it."""
    found = run("""
ours.install()
ours.measurements.begin(memory.take)
early.add(1)
set_by_app()
early.add(5)
late = metrics.get_meter("shop").create_counter("late")
late.add(7)
print(json.dumps([kept(), of_app()]))
""")
    assert found == [{"early": 1}, {"early": 5, "late": 7}]


def test_a_provider_that_a_variable_names_is_the_apps() -> None:
    """I chose one by OpenTelemetry's variable: taskobs puts none in its place."""
    found = run(
        """
print(json.dumps(ours.install()))
""",
        OTEL_PYTHON_METER_PROVIDER="sdk_meter_provider",
    )
    assert found is False
