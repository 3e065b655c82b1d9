"""A producer counts what it publishes, and sends that itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from tests.support.paths import ROOT

SCRIPT = """
import os
from celery import Celery
import taskobs
app = Celery("shop", broker="memory://localhost")
taskobs.init()
app.send_task("pay", queue="orders")
pid = os.fork() if {forks} else 1
if not pid:
    for _ in range(2):
        app.send_task("pay", queue="orders")
    taskobs.init().close()
    os._exit(0)
if {forks}:
    os.waitpid(pid, 0)
try:
    app.send_task("refused", connection=app.connection("amqp://localhost:1"), retry=False)
except Exception:
    pass
app.send_task("pay", queue="orders")
"""


def published(receiver: Receiver) -> dict[str, Counter[tuple[str, ...]]]:
    """Give the latest counts of publishes by instance."""
    found: dict[str, Counter[tuple[str, ...]]] = {}
    for request in [one for one in receiver.requests if one.path == "/v1/metrics"]:
        for resource in ExportMetricsServiceRequest.FromString(request.body).resource_metrics:
            given = {one.key: one.value.string_value for one in resource.resource.attributes}
            counts = found.setdefault(given["service.instance.id"], Counter())
            for metric in (one for scope in resource.scope_metrics for one in scope.metrics):
                assert metric.name == semconv.METRIC_TASK_PUBLISHED
                for point in metric.sum.data_points:
                    labels = {one.key: one.value.string_value for one in point.attributes}
                    key = tuple(labels[name] for name in sorted(labels))
                    counts[key] = int(point.as_int or point.as_double)
    return found


@pytest.mark.parametrize("traces", [True, False])
@pytest.mark.parametrize("forks", [True, False])
def test_what_a_script_publishes_is_counted(*, traces: bool, forks: bool) -> None:
    """My script publishes and ends, and so does a process that it forks: each has its counts."""
    with Receiver() as receiver:
        foreign = ("OTEL_", "SENTRY_", "TASKOBS_")
        env = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
        endpoint = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{receiver.endpoint}/v1/metrics"}
        if traces:
            endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        subprocess.run(  # our own script
            [sys.executable, "-c", SCRIPT.format(forks=forks)],
            env={**env, **endpoint, "PYTHONPATH": str(ROOT), "TASKOBS_SHUTDOWN_TIMEOUT": "60"},
            check=True,
            timeout=240,
        )
        found = sorted(published(receiver).values(), key=len)
        spans = len(receiver.spans)
    [*of_child, of_script] = found
    refused = {key: number for key, number in of_script.items() if "refused" in key}
    assert of_script["orders", "pay"] == 2
    assert list(refused.values()) == [1]
    assert of_child == ([{("orders", "pay"): 2}] if forks else [])
    assert bool(spans) == traces
