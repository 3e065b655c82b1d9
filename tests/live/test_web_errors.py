"""Errors of web requests: on the request's trace, as are those of the tasks that it publishes."""

from __future__ import annotations

import json
import urllib.error
from collections import defaultdict
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.live.process import LIMIT
from tests.live.services import HOST
from tests.live.shop import QUICK, trace_of
from tests.live.test_web import GUNICORN, get, serving

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedEvent
    from tests.live.celery_process import Broker, LiveApp

ERRORS = "tests.live.apps.errors"
SITES = "tests.live.apps.web_errors"
SERVERS = {
    "flask": (*GUNICORN, f"{SITES}.flask_errors:web"),
    "django": (*GUNICORN, f"{SITES}.django_errors:application"),
    "fastapi": ("uvicorn", f"{SITES}.fastapi_errors:web", "--host", HOST, "--port", "{port}"),
}
CLIENTS: dict[str, dict[str, object] | None] = {
    "ours": None,
    "the app's": {},
    "the app's, with tracing": {"traces_sample_rate": 1.0},
}


def environment(receiver: Receiver, client: str) -> dict[str, str]:
    """Give the variables for a Sentry client."""
    return {
        **QUICK,
        "APP_SENTRY_DSN": receiver.dsn,
        "APP_SENTRY": json.dumps(CLIENTS[client]),
    }


def fails(port: int, path: str) -> None:
    """Ask for a page that fails."""
    with pytest.raises(urllib.error.HTTPError, match="500"):
        get(port, path)


def message(event: ReceivedEvent) -> str:
    """Give what the exception of an event says."""
    data = cast("dict[str, Any]", event.data)
    return str(data["exception"]["values"][-1]["value"])


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("server", SERVERS)
def test_an_error_of_a_request_is_on_its_span(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, server: str, client: str
) -> None:
    """My request fails: its event in Sentry leads to the request's trace in Jaeger."""
    pytest.importorskip(f"opentelemetry.instrumentation.{server}")
    env = environment(receiver, client)
    paths = ["boom", "boom-sync"] if server == "fastapi" else ["boom"]
    with serving(live, redis_broker, SERVERS[server], APP_TRACED="1", **env) as (web, port):
        for path in paths:
            fails(port, path)
        number = len(paths)
        assert receiver.wait_for(lambda r: len(r.events) >= number, LIMIT)
        web.stop("TERM")
    requests = {span.trace_id for span in receiver.spans if span.kind == "server"}
    assert len(requests) == number
    assert {trace_of(event)[0] for event in receiver.events} == requests
    assert len(receiver.events) == number


@pytest.mark.parametrize("spans", ["nowhere", "everywhere", "in the worker"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("server", SERVERS)
def test_web_and_its_tasks_are_one_trace_in_sentry(  # noqa: PLR0917  # what varies
    live: LiveApp,
    receiver: Receiver,
    redis_broker: Broker,
    server: str,
    client: str,
    spans: str,
) -> None:
    """Two requests fail, each with a task that fails and publishes another: two traces."""
    env = environment(receiver, client)
    if spans == "nowhere":
        del live.env["OTEL_EXPORTER_OTLP_ENDPOINT"]
    worker = live.worker(redis_broker, app=ERRORS, env=env)
    if spans == "in the worker":
        del live.env["OTEL_EXPORTER_OTLP_ENDPOINT"]
    with serving(live, redis_broker, SERVERS[server], **env) as (web, port):
        fails(port, "buy")
        fails(port, "buy")
        assert receiver.wait_for(lambda r: len(r.events) >= 6, LIMIT)
        web.stop("TERM")
    assert worker.stop() == 0
    traces: defaultdict[str, list[str]] = defaultdict(list)
    for event in receiver.events:
        traces[trace_of(event)[0]].append(message(event))
    wanted = sorted(["the page is broken", "the first", "the second"])
    assert [sorted(found) for found in traces.values()] == [wanted, wanted]
    assert len({trace_of(event)[1] for event in receiver.events}) == 6
    if spans != "nowhere":
        assert {span.trace_id for span in receiver.spans} == set(traces)
