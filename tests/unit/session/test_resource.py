"""What spans say of their service."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import taskobs
from taskobs.testing.receiver import Receiver
from tests.support.recording import PrivateApp, Recorder


def resource(receiver: Receiver, **settings: object) -> Mapping[str, object]:
    """Give the resource of a span that is made under these settings."""
    with taskobs.init(otlp_endpoint=receiver.endpoint, strict=True, **settings):  # type: ignore[arg-type]  # settings
        trace.get_tracer("t").start_span("one").end()
    return receiver.spans[0].resource


def test_release_and_environment_are_there(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I set what Sentry files errors under, and find it at my spans."""
    monkeypatch.setenv("SENTRY_RELEASE", "1.2")
    monkeypatch.setenv("SENTRY_ENVIRONMENT", "blue")
    found = resource(receiver)
    assert found["service.version"] == "1.2"
    assert found["deployment.environment.name"] == "blue"


def test_the_resource_says_more_and_wins(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What I give as `resource` is there, and goes before what Sentry has."""
    monkeypatch.setenv("SENTRY_RELEASE", "1.2")
    found = resource(receiver, resource={"service.version": "2", "shard": 7})
    assert (found["service.version"], found["shard"]) == ("2", 7)


def test_the_app_may_be_made_after_init(receiver: Receiver) -> None:
    """`init()` stands above `Celery("late")`, and the service is called so."""
    with taskobs.init(otlp_endpoint=receiver.endpoint, strict=True) as session:
        app = PrivateApp("late", broker="memory://", set_as_current=False)
        session._app_name.use(app)  # pyright: ignore[reportPrivateUsage, reportArgumentType]
        trace.get_tracer("t").start_span("one").end()
    assert receiver.spans[0].resource["service.name"] == "late"


def test_a_processor_that_is_added_later_sees_each_span(receiver: Receiver) -> None:
    """An SDK of another vendor adds its processor after `init()`: it is flushed by itself."""
    flushed: list[int] = []

    class Added(Recorder):
        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            flushed.append(timeout_millis)
            return True

    added = Added()
    with taskobs.init(otlp_endpoint=receiver.endpoint, strict=True) as session:
        provider = trace.get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        provider.add_span_processor(added)
        trace.get_tracer("t").start_span("one").end()
        assert session.flush(30)
        assert flushed
    assert added.names == ["one"]
