"""The how-to pages, followed from their first line to *Verify*, with real servers (docs/how-to)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from taskobs import semconv
from tests.live import services
from tests.live.conftest import skip_if_missing
from tests.live.how_to import HowTo
from tests.live.process import LIMIT
from tests.live.services import free_port
from tests.live.shop import tags
from tests.live.test_backends import is_red

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver

BROKER = "redis://localhost:6379/0"
"""That of the pages."""
COLLECTED = "collected"
"""The name of the service in the page about the Collector: another test's is `shop`."""
SUCCEEDED = 30
"""The tasks of that page that tail sampling keeps a tenth of."""


def port_of(url: str) -> str:
    """Give the port of an address."""
    return url.rpartition(":")[2].partition("/")[0]


def need(*programs: str) -> None:
    """Skip the test where the machine lacks a program that its page calls."""
    with skip_if_missing():
        for name in programs:
            package = "prometheus" if name.startswith("prom") else name
            services.find_program(name, variable="", install=f"apt-get install {package}")


def pages_of(jaeger: services.Jaeger) -> dict[str, str]:
    """Give the variable by which `taskobs trace` finds a Jaeger that is not at the usual port."""
    return {"TASKOBS_JAEGER_API": f"http://localhost:{port_of(jaeger.query)}"}


def test_jaeger(redis_server: services.Redis, jaeger: services.Jaeger, tmp_path: Path) -> None:
    """I follow the page, and print the trace of a task that failed, as Jaeger has it."""
    replaced = {
        BROKER: redis_server.url(),
        "4318": port_of(jaeger.endpoint),
        "16686": port_of(jaeger.query),
    }
    with HowTo("jaeger", tmp_path, replaced, pages_of(jaeger)) as reader:
        reader.follow()
        reader.stop()


def test_sentry(redis_server: services.Redis, bugsink: services.Bugsink, tmp_path: Path) -> None:
    """I follow the page, and find the failure of my task as an issue, with its tags."""
    need("curl")
    project = bugsink.project()
    replaced = {
        BROKER: redis_server.url(),
        "http://c0ffee00c0ffee00c0ffee00c0ffee00@localhost:8000/1": project.dsn,
        "localhost:8000/1": f"127.0.0.1:{port_of(bugsink.url)}/{project.number}",
        "8000": port_of(bugsink.url),
        "project=1": f"project={project.number}",
    }
    with HowTo("sentry", tmp_path, replaced, {"BUGSINK_TOKEN": bugsink.token}) as reader:
        reader.follow()
        reader.stop()
    [event] = project.events()
    assert event["tags"][semconv.TAG_TASK_NAME] == "tasks.charge_card"
    assert (event["environment"], event["release"]) == ("production", "shop@1.4.0")


@pytest.fixture
def collector() -> str:
    """The program of a real Collector."""
    with skip_if_missing():
        return services.collector()


def test_collector(
    redis_server: services.Redis,
    jaeger: services.Jaeger,
    collector: str,
    receiver: Receiver,
    tmp_path: Path,
) -> None:
    """I follow the page: spans, metrics and logs pass the Collector, which keeps what failed."""
    need("curl")
    replaced = {
        BROKER: redis_server.url(),
        "4317": str(free_port()),
        "4318": str(free_port()),
        "8888": str(free_port()),
        "14317": port_of(jaeger.grpc_endpoint),
        "14318": port_of(receiver.endpoint),
        "16686": port_of(jaeger.query),
        "OTEL_SERVICE_NAME=shop": f"OTEL_SERVICE_NAME={COLLECTED}",
        "decision_wait: 30s": "decision_wait: 15s",
    }
    env = {**pages_of(jaeger), "OTEL_METRIC_EXPORT_INTERVAL": "1000"}
    with HowTo("collector", tmp_path, replaced, env) as reader:
        reader.link("otelcol", collector)
        reader.follow()
        reader.stop()
        reader.stop("otelcol")  # it sends what it has decided on
    traces = jaeger.ask("/traces", service=COLLECTED, limit="1000")
    failed = [one for one in traces if any(map(is_red, one["spans"]))]
    assert len(failed) == 2
    assert len(traces) - len(failed) < SUCCEEDED
    assert {one.path for one in receiver.requests} == {"/v1/metrics", "/v1/logs"}
    [error] = [one for one in receiver.logs if one.trace_id == failed[-1]["traceID"]]
    assert "the bank declined the card" in str(error.attributes["exception.message"])
    assert semconv.METRIC_TASK_DURATION in metrics_of(receiver)


def metrics_of(receiver: Receiver) -> set[str]:
    """Name the metrics that arrived."""
    bodies = [one.body for one in receiver.requests if one.path == "/v1/metrics"]
    return {
        metric.name
        for body in bodies
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_prometheus_and_grafana(redis_server: services.Redis, tmp_path: Path) -> None:
    """I follow the page: Prometheus has my worker's runs, the monitor's queues, and the rules."""
    need("prometheus", "promtool", "curl")
    pytest.importorskip("prometheus_client")
    replaced = {
        BROKER: redis_server.url(),
        "9808": str(free_port()),
        "9809": str(free_port()),
        "9090": str(free_port()),
        "scrape_interval: 15s": "scrape_interval: 1s",
    }
    with HowTo("prometheus-grafana", tmp_path, replaced) as reader:
        reader.rewritten = ("observability/prometheus/prometheus.yml",)
        reader.follow()
        reader.stop()


def test_gevent(redis_server: services.Redis, jaeger: services.Jaeger, tmp_path: Path) -> None:
    """I follow the page, and my tasks wait at the same time, each in a trace of its own."""
    pytest.importorskip("gevent")
    replaced = {
        BROKER: redis_server.url(),
        "4318": port_of(jaeger.endpoint),
        "16686": port_of(jaeger.query),
        "OTEL_SERVICE_NAME=shop": "OTEL_SERVICE_NAME=greenlets",
    }
    with HowTo("gevent", tmp_path, replaced, pages_of(jaeger)) as reader:
        reader.follow()
        reader.stop()
    traces = jaeger.ask("/traces", service="greenlets", limit="1000")
    assert [len(one["spans"]) for one in traces] == [2] * 20
    runs = [max(one["spans"], key=lambda span: int(span["startTime"])) for one in traces]
    began = [int(run["startTime"]) for run in runs]
    took = [int(run["duration"]) for run in runs]
    whole = max(map(sum, zip(began, took, strict=True))) - min(began)
    assert whole < sum(took) / 2


WORKER = "celery -A stock_tasks worker --loglevel INFO"
CALL = "celery -A stock_tasks call tasks.charge_card --args '[1002]'"
RUN = "tasks.charge_card"


def test_from_the_stock_integrations(
    redis_server: services.Redis, receiver: Receiver, tmp_path: Path
) -> None:
    """I follow the page: spans and events before and after are as it says, and none is doubled."""
    replaced = {
        BROKER: redis_server.url(),
        "4318": str(receiver.port),
        "key@localhost:8000": f"key@localhost:{receiver.port}",
        "localhost:8000": f"localhost:{receiver.port}",
    }
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "SENTRY_DSN": receiver.dsn,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with HowTo("from-stock", tmp_path, replaced, env) as reader:
        reader.follow("Before")
        reader.start(WORKER, " ready.")
        assert reader.bash(CALL)[0] == 0
        before = told(receiver)
        reader.stop()
        receiver.clear()
        reader.follow("Steps", "Verify")
        after = told(receiver)
        reader.stop()
    assert before == [f"run/{RUN}", f"event of {RUN}"]
    assert after == [f"publish {RUN}", f"run {RUN}", f"event of {RUN}"]
    assert "Attempting to instrument" not in reader.logged()


def told(receiver: Receiver) -> list[str]:
    """Wait for the run and its event; name all that has arrived."""

    def complete(got: Receiver) -> bool:
        return bool(got.events) and any(span.name.startswith("run") for span in got.spans)

    assert receiver.wait_for(complete, LIMIT)
    spans = sorted(span.name for span in receiver.spans)
    assert all(tags(event)["celery_task_id"] for event in receiver.events)
    return [*spans, *(f"event of {event.data['transaction']}" for event in receiver.events)]
