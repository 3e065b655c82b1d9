"""What `celery call` records without the SDKs is what they would record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from taskobs.otel.export.plain_span import is_known
from taskobs.testing.receiver import Receiver
from taskobs.testing.wire import ReceivedSpan
from tests.support.paths import ROOT
from tests.support.unmeasured import unmeasured

APP = """
import atexit, json, sys
from celery import Celery
@atexit.register  # called last, after the hook of taskobs
def _():
    print(json.dumps([one for one in ("opentelemetry", "sentry_sdk") if one in sys.modules]))
app = Celery("shop", broker="filesystem://", backend="cache+memory://")
app.conf.broker_transport_options = {"data_folder_in": "queues", "data_folder_out": "queues"}
import taskobs
taskobs.init()
"""
REFUSED = """
app.conf.broker_url = "amqp://127.0.0.1:1"
app.conf.task_publish_retry = False
"""
TWICE = """
class Twice(Celery):
    def send_task(self, name, *args, **named):
        sent = super().send_task(name, *args, **named)
        return sent if name == "second" else self.send_task("second")
app.__class__ = Twice
"""
AS_THE_SDK_DOES = {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "128"}
"""A variable that is left to the SDK, with its default value."""


class Command:
    """Runs `celery call add` of an app that reports to a receiver."""

    def __init__(self, receiver: Receiver, folder: Path) -> None:
        self.receiver = receiver
        self._folder = folder
        self.log = ""
        self._queues = folder / "queues"
        self._queues.mkdir()

    def run(self, more: str = "", *arguments: str, **variables: str) -> str:
        """Run it until it ends; gives the last line that it prints."""
        (self._folder / "shop_of_test.py").write_text(APP + more, encoding="utf-8")
        clean = {n: text for n, text in unmeasured().items() if not n.startswith("OTEL_")}
        own = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.endpoint,
            "SENTRY_DSN": self.receiver.dsn,
            "TASKOBS_SHUTDOWN_TIMEOUT": "60",
            "PYTHONPATH": os.pathsep.join([str(self._folder), str(ROOT)]),
        }
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "shop_of_test", "call", "add", *arguments],
            env={**clean, **own, **variables},
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        self.log = done.stderr
        return (done.stdout.splitlines() or [done.stderr])[-1]

    def span(self) -> ReceivedSpan:
        """Give the only span that arrived."""
        (span,) = self.receiver.spans
        return span

    def headers(self) -> dict[str, Any]:
        """Give the headers of the only message, and take it away."""
        (file,) = self._queues.iterdir()
        headers: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["headers"]
        file.unlink()
        return headers


@pytest.fixture
def command(receiver: Receiver, tmp_path: Path) -> Command:
    return Command(receiver, tmp_path)


def described(span: ReceivedSpan) -> dict[str, Any]:
    """Give all of a span, with nothing in the place of what is another one in each process."""
    own = {"process.pid", "messaging.message.id", "celery.task_id", "celery.root_id"}
    return {
        **{name: getattr(span, name) for name in ("name", "kind", "status", "message", "scope")},
        **{name: getattr(span, name) for name in ("links", "parent_id")},
        "events": [event.name for event in span.events],
        "attributes": _without(span.attributes, own | {"celery.eta", "celery.expires"}),
        "resource": _without(span.resource, {"service.instance.id"}),
        "takes": span.end_ns > span.start_ns,
    }


def _without(attributes: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: "" if name in names else value for name, value in attributes.items()}


def encoded(receiver: Receiver) -> int:
    """Give the size of the request with the span: fields that the receiver doesn't read count."""
    (request,) = (one for one in receiver.requests if one.path == "/v1/traces")
    return len(request.body)


def shape(headers: Mapping[str, Any], span: ReceivedSpan) -> dict[str, Any]:
    """Give a message's headers, with names in the place of the ids of its span and its task."""
    names = {span.trace_id: "TRACE", span.span_id: "SPAN", headers["id"]: "TASK"}
    text = json.dumps({**headers, "taskobs-published-at": "", "origin": "", "eta": ""})
    for one, name in names.items():
        text = text.replace(one, name)
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.skipif(not is_known(), reason="spans are left to this release of the SDK")
@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ((), {}),
        (("--queue", "slow"), {"SENTRY_RELEASE": "4.2", "SENTRY_ENVIRONMENT": "staging"}),
        (("--countdown", "5"), {"OTEL_SERVICE_NAME": "büro", "TASKOBS_STOCK_ATTRIBUTES": "0"}),
        (("-a", "[1, 2]"), {"SENTRY_DSN": ""}),
    ],
)
def test_the_span_and_the_message_are_as_with_the_sdk(
    command: Command, arguments: tuple[str, ...], variables: dict[str, str]
) -> None:
    """What `celery call` sends doesn't tell whether it imported OpenTelemetry."""
    assert command.run("", *arguments, **variables) == "[]"
    without, size = described(command.span()), encoded(command.receiver)
    headers = shape(command.headers(), command.span())
    command.receiver.clear()
    assert "opentelemetry" in command.run("", *arguments, **variables, **AS_THE_SDK_DOES)
    assert without == described(command.span())
    assert abs(size - encoded(command.receiver)) <= 2  # the process's id, in one byte or three
    assert headers == shape(command.headers(), command.span())


def test_a_refused_publish_is_an_error_as_with_the_sdk(command: Command) -> None:
    """My broker is down: `celery call` has a failed span, and an event if one is due."""
    found: list[tuple[list[str], dict[str, Any]]] = []
    for variables in ({}, AS_THE_SDK_DOES):
        command.receiver.clear()
        command.run(REFUSED, **variables)
        events: list[Any] = [event.data for event in command.receiver.events]
        told: list[str] = [event["exception"]["values"][-1]["type"] for event in events]
        found.append((told, described(command.span())))
    assert found[0] == found[1]
    assert found[0][1]["status"] == "error"
    assert found[0][1]["events"] == ["exception"]
    assert found[0][0] == ["OperationalError"]


def test_a_second_publish_is_recorded_beside_the_first(command: Command) -> None:
    """My app publishes a second message: both spans are there, of one process."""
    command.run(TWICE)
    spans = command.receiver.spans
    assert sorted(span.name for span in spans) == ["publish add", "publish second"]
    first, second = spans
    assert first.resource == second.resource  # with the process's id, where the SDK has one
    assert len({span.trace_id for span in spans}) == 2


def test_a_span_that_was_not_accepted_is_sent_again(command: Command) -> None:
    """My collector is busy for a moment: the exporter sends the span later, with its ids."""
    receiver = command.receiver
    receiver.behave("/v1/traces", status=503)
    recovery = Thread(target=_recover, args=(receiver,))
    recovery.start()
    try:
        assert "opentelemetry" in command.run()
    finally:
        recovery.join()
    span = command.span()
    assert command.headers()["traceparent"][3:52] == f"{span.trace_id}-{span.span_id}"


def test_a_collector_that_does_not_answer_is_logged_as_with_the_sdk(command: Command) -> None:
    """My collector hangs: `celery call` ends, and says that telemetry is lost."""
    command.receiver.behave("/v1/traces", hang=True)
    command.run(TASKOBS_SHUTDOWN_TIMEOUT="2")
    assert "ends with telemetry unsent: no answer within 2.0 s" in command.log


def _recover(receiver: Receiver) -> None:
    receiver.wait_for(lambda it: bool(it.requests), 60)
    receiver.behave("/v1/traces")
