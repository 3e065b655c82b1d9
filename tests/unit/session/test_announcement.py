"""What a process says of where its telemetry goes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from celery import Celery

import taskobs
from taskobs.testing.receiver import Receiver
from tests.support.recording import PrivateApp
from tests.unit.session.test_session import with_task


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Give the level and the text of each line of ours."""
    return [(one.levelname, one.message) for one in caplog.records if one.name == "taskobs"]


def test_nothing_configured_is_one_line(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """With nothing configured I am told so once, when logging is set up: at the first publish."""
    add = with_task(app)
    with caplog.at_level(logging.INFO, "taskobs"), taskobs.init():
        taskobs.init()
        assert not lines(caplog)
        for _ in range(2):
            add.delay(1, 2)
            add.apply((1, 2))
        [(level, text)] = lines(caplog)
    assert level == "INFO"
    assert "nothing is configured" in text


@pytest.mark.parametrize(
    ("argument", "variable"),
    [("service_name", None), ("crons", None), (None, "SENTRY_ENVIRONMENT"), ("resource", None)],
)
def test_what_is_half_configured_is_a_warning(
    app: Celery,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    argument: str | None,
    variable: str | None,
) -> None:
    """I name my service and no place to send to: I am warned, and told what I have set."""
    values: dict[str, Any] = {"service_name": "shop", "crons": True, "resource": {"a": "b"}}
    if variable is not None:
        monkeypatch.setenv(variable, "production")
    with (
        caplog.at_level(logging.INFO, "taskobs"),
        taskobs.init(**({argument: values[argument]} if argument is not None else {})),
    ):
        with_task(app).delay(1, 2)
    [(level, text)] = lines(caplog)
    assert level == "WARNING"
    assert f"taskobs: {argument or variable}" in text


@pytest.mark.parametrize("service_name", [None, "mine"])
def test_several_apps_share_the_name_of_one(
    app: Celery, receiver: Receiver, caplog: pytest.LogCaptureFixture, service_name: str | None
) -> None:
    """My process has two apps: I am told once whose name the service has, unless I name it."""
    # Each case has a name of its own: those of apps that earlier cases have made are hidden.
    second = PrivateApp(f"beside-{service_name}", broker="memory://", set_as_current=False)
    with (
        caplog.at_level(logging.INFO, "taskobs"),
        taskobs.init(
            otlp_endpoint=receiver.endpoint, service_name=service_name, relay=False
        ) as session,
    ):
        session._app_name.use(app)  # pyright: ignore[reportPrivateUsage, reportArgumentType]
        for publisher in (app, second, app):
            publisher.send_task("any")
        assert session.flush(30)
    said = [text for _, text in lines(caplog) if second.main in text]
    assert len(said) == (service_name is None)
    for text in said:
        assert f"the service is called {app.main!r}" in text
        assert "set service_name" in text
    name = service_name or app.main
    assert {span.resource["service.name"] for span in receiver.spans} == {name}


def test_the_first_publish_says_where_telemetry_goes(
    app: Celery, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """My web process logs one line, without secrets, when it publishes first."""
    add, endpoint = with_task(app), receiver.endpoint.replace("://", "://user:s3cret@")
    headers = {"authorization": "s3cret"}
    with caplog.at_level(logging.INFO, "taskobs"):
        session = taskobs.init(
            otlp_endpoint=endpoint, otlp_headers=headers, sentry_dsn=receiver.dsn, relay=False
        )
        with session:
            for _ in range(2):
                add.delay(1, 2)
    [(level, text)] = lines(caplog)
    host = receiver.endpoint.partition("://")[2]
    assert level == "INFO"
    assert text == (
        f"taskobs: traces to http://***@{host}/v1/traces, errors to http://{host}/1, metrics off"
    )
