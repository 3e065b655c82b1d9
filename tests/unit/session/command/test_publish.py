"""Which publishes of `celery call` need no SDK: none for which it would do anything else."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Generator
from threading import Thread
from typing import Any

import pytest
from celery import Celery, signals
from celery.bin.celery import celery as command_line

from taskobs.celery.adapter.publishes import publish_of
from taskobs.config.settings import resolve
from taskobs.observers.context import state as context_state
from taskobs.otel.export.plain_span import is_known
from taskobs.session.command.publish import CommandPublish, is_possible

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


def _app(broker: str) -> Celery:
    return Celery("shop", broker=broker, set_as_current=False)


class Call:
    """The publish of a `celery call add`; a test changes one thing about it."""

    def __init__(self) -> None:
        self.app = _app("memory://")
        self.task = "add"
        self.options: dict[str, Any] = {"queue": "slow"}
        self.arguments: dict[str, object] = {}
        self.handlers: list[logging.Handler] = []

    def needs_no_sdk(self) -> bool:
        settings = resolve(self.arguments, os.environ)
        log = logging.getLogger("taskobs")
        before, log.handlers, log.propagate = log.handlers, self.handlers, False  # pytest's
        try:
            return is_possible(settings, self.app, self.task, self.options)
        finally:
            log.handlers, log.propagate = before, True


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Generator[Call]:
    """Run `celery call` in a process that has neither OpenTelemetry nor a log."""
    for name in os.environ:
        if name.startswith("OTEL_") or name.lower().endswith("proxy"):
            monkeypatch.delenv(name)
    for name, value in ENDPOINT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "opentelemetry")
    monkeypatch.setattr(context_state, "in_use", False)
    with command_line.make_context("celery", ["call", "add"]) as context:
        context.invoked_subcommand = "call"
        found = Call()
        assert found.needs_no_sdk() == is_known()
        yield found


@pytest.mark.skipif(not is_known(), reason="spans are left to this release of the SDK")
def test_a_plain_publish_needs_no_sdk(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """My app exports over plain HTTP, and `celery call` imports no SDK for that."""
    for name, value in (
        ("OTEL_SERVICE_NAME", "shop"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_TRACES_SAMPLER", ""),  # empty means unset
    ):
        monkeypatch.setenv(name, value)
    assert call.needs_no_sdk()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=shop"),
        ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "host"),
        ("OTEL_PROPAGATORS", "b3"),
        ("OTEL_PYTHON_ID_GENERATOR", "xray"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "of_vendor"),
        ("OTEL_PYTHON_CONTEXT", "of_vendor"),
        ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "8"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector.example/v1/traces"),
        ("OTEL_OF_A_LATER_RELEASE", "1"),
        ("http_proxy", "http://proxy.example"),
    ],
)
def test_a_variable_that_only_the_sdk_heeds_is_left_to_it(
    call: Call, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Whatever I set for OpenTelemetry applies to `celery call`, too."""
    monkeypatch.setenv(name, value)
    assert not call.needs_no_sdk()


@pytest.mark.parametrize(
    "arguments",
    [
        {"sample_rate": 0.5},
        {"resource": {"team": "shop"}},
        {"otlp_protocol": "grpc"},
        {"otlp_endpoint": "https://collector.example"},
        {"otlp_endpoint": "http://user:secret@collector.example"},
        {"tasks": {"add": {"sample_rate": 0.0}}},
        {"keep": ["failed"]},
        {"on_publish": print},
        {"context_keys": ["tenant"]},
        {"instrument": True},
        {"logs": "otlp"},
    ],
)
def test_an_argument_that_only_the_sdk_heeds_is_left_to_it(
    call: Call, arguments: dict[str, object]
) -> None:
    """So does what I pass to `init()`."""
    call.arguments = arguments
    assert not call.needs_no_sdk()


def _imports_opentelemetry(call: Call) -> None:  # noqa: ARG001  # as the others
    sys.modules["opentelemetry"] = sys.modules["opentelemetry.trace"]


def _configures_logging(call: Call) -> None:
    call.handlers = [logging.NullHandler()]


def _gives_a_parent(call: Call) -> None:
    call.options["headers"] = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "baggage": "a=b"}


def _sets_a_context(call: Call) -> None:  # noqa: ARG001  # as the others
    context_state.in_use = True


def _has_several_brokers(call: Call) -> None:
    call.app = _app("memory://one;memory://two")


def _sends_a_map(call: Call) -> None:
    call.task = "celery.map"


@pytest.mark.parametrize(
    "change",
    [
        _imports_opentelemetry,
        _configures_logging,
        _gives_a_parent,
        _sets_a_context,
        _has_several_brokers,
        _sends_a_map,
    ],
)
def test_what_the_app_does_is_left_to_the_sdk(call: Call, change: Callable[[Call], None]) -> None:
    """A provider, a span, a propagator, baggage: my app can only have them with OpenTelemetry."""
    change(call)
    assert not call.needs_no_sdk()


@pytest.mark.parametrize("signal", [signals.before_task_publish, signals.after_task_publish])
def test_a_receiver_of_the_app_is_called_within_a_span(call: Call, signal: Any) -> None:
    """My receiver adds an attribute to the current span, and there is one."""

    def receiver(**_: object) -> None: ...

    signal.connect(receiver)
    try:
        assert not call.needs_no_sdk()
    finally:
        signal.disconnect(receiver)


def test_another_thread_takes_the_usual_way(call: Call) -> None:
    """A thread of my app publishes while the command does: there is only one plain span."""
    found: list[bool] = []
    thread = Thread(target=lambda: found.append(call.needs_no_sdk()))
    thread.start()
    thread.join()
    assert found == [False]


def test_another_program_takes_the_usual_way(call: Call) -> None:
    """A script of mine publishes many messages, for which the SDK is made."""
    with command_line.make_context("celery", ["shell"]) as context:
        context.invoked_subcommand = "shell"
        assert not call.needs_no_sdk()


@pytest.mark.skipif(not is_known(), reason="spans are left to this release of the SDK")
def test_a_span_that_cannot_be_sent_leaves_no_header_in_the_log(
    call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    """My token has an umlaut in it, and nothing of it is in the log of the command at DEBUG."""
    caplog.set_level(logging.DEBUG, "taskobs")
    settings = resolve({"otlp_headers": {"authorization": "Bearer t0kän"}}, os.environ)
    publish = publish_of(call.app, call.task, call.options, None)
    alone = CommandPublish(settings, lambda: "shop", lambda: None, call.app, publish)
    with alone:
        pass
    assert not alone.send(10.0)
    assert "UnicodeEncodeError" in caplog.text
    assert "t0k" not in caplog.text
