"""Apps of web frameworks: each makes a span of each request, whoever instruments it, and once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest

import taskobs
from taskobs.errors import MissingExtraError
from taskobs.testing.receiver import Receiver
from tests.support.instrumented_libraries import install_in

flask = pytest.importorskip("flask")
flask_instrumentation = pytest.importorskip("opentelemetry.instrumentation.flask")
for name in ("fastapi", "opentelemetry.instrumentation.fastapi"):
    # Not imported: that takes long, and each process of the tests would do it.
    if find_spec(name) is None:
        pytest.skip(f"could not import {name!r}", allow_module_level=True)

GET = "GET /orders/<int:order>"


def page(order: int) -> str:
    """Show an order."""
    return str(order)


def flask_app(kind: type[Any] = flask.Flask) -> Any:
    """Make an app with one page."""
    app = kind("shop")
    app.add_url_rule("/orders/<int:order>", view_func=page, endpoint="page")
    return app


def ask(app: Any) -> None:
    """Request the page, as any WSGI server would."""
    assert app.test_client().get("/orders/7").text == "7"


def fastapi_app() -> Any:
    """Make an app with one page."""
    app = import_module("fastapi").FastAPI()
    app.add_api_route("/orders/{order}", page)
    return app


def ask_asgi(app: Any) -> None:
    """Request the page, as any ASGI server would."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/orders/7",
        "raw_path": b"/orders/7",
        "query_string": b"",
        "headers": [],
        "server": ("localhost", 80),
        "client": ("localhost", 1),
        "root_path": "",
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 200


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Give what is logged as a warning, or worse."""
    caplog.set_level(logging.WARNING)
    return caplog


def servers(receiver: Receiver) -> list[str]:
    return [span.name for span in receiver.spans if span.kind == "server"]


def test_apps_made_before_and_after(receiver: Receiver) -> None:
    """My app is made before `init()`, or after it: each request is one span."""
    before = flask_app()
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=["flask", "fastapi"]):
        ask(before)
        after = flask_app()
        ask(after)
        ask(after)
        ask_asgi(fastapi_app())
    assert servers(receiver) == [GET, GET, GET, "GET /orders/{order}"]


def test_close_leaves_apps_as_they_were(receiver: Receiver) -> None:
    """After `close()` my apps serve without spans; a later `init()` is for new apps of Flask."""
    asgi = fastapi_app()
    for _ in range(2):
        wsgi = flask_app()
        with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
            ask(wsgi)
            ask_asgi(asgi)
        ask(wsgi)
        ask_asgi(asgi)
    assert servers(receiver) == [GET, "GET /orders/{order}"] * 2


def test_close_goes_on_after_an_app_that_can_not_be_restored(
    receiver: Receiver, warnings: pytest.LogCaptureFixture
) -> None:
    """My apps' middleware can't be made a second time: a line each says so, none is left out."""

    class Once:
        made: ClassVar[set[object]] = set()

        def __init__(self, app: Any, name: str) -> None:
            if name in self.made:
                raise ValueError(f"{name} again")
            self.made.add(name)
            self.app = app

        async def __call__(self, *request: Any) -> None:
            await self.app(*request)

    apps = [fastapi_app() for _ in range(2)]
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        for number, app in enumerate(apps):
            app.add_middleware(Once, name=f"app {number}")
            ask_asgi(app)
    assert sorted(record.getMessage() for record in warnings.records) == [
        f"taskobs: fastapi may still be instrumented: ValueError: app {number} again"
        for number in range(2)
    ]


def test_an_app_that_its_own_code_instruments(
    receiver: Receiver, warnings: pytest.LogCaptureFixture
) -> None:
    """I instrument my app myself, before `init()` or after, with a hook: once, with my hook."""
    seen: list[str] = []

    def hook(span: Any, environ: object) -> None:
        del environ
        seen.append(span.name)

    first, second = flask_app(), flask_app()
    instrumentor = flask_instrumentation.FlaskInstrumentor()
    instrumentor.instrument_app(first, request_hook=hook)
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        instrumentor.instrument_app(second, request_hook=hook)
        for app in (first, second):
            ask(app)
    assert servers(receiver) == seen == [GET, GET]
    assert not warnings.records
    for app in (first, second):
        instrumentor.uninstrument_app(app)


def test_a_framework_that_the_app_activates(
    receiver: Receiver, warnings: pytest.LogCaptureFixture
) -> None:
    """I activate the framework's instrumentor after `init()`: all its apps are mine, once each."""
    instrumentor = flask_instrumentation.FlaskInstrumentor()
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        instrumentor.instrument()
        ask(flask_app(flask.Flask))
    assert servers(receiver) == [GET]
    assert instrumentor.is_instrumented_by_opentelemetry
    instrumentor.uninstrument()
    assert not warnings.records


def test_middleware_of_the_apps_own_stays(receiver: Receiver) -> None:
    """I put a middleware around my Flask app: it is called as before, also after `close()`."""
    app = flask_app()
    calls: list[str] = []
    inner = app.wsgi_app

    def middleware(environ: dict[str, Any], start: Any) -> Any:
        calls.append(environ["PATH_INFO"])
        return inner(environ, start)

    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        app.wsgi_app = middleware
        ask(app)
    ask(app)
    assert servers(receiver) == [GET]
    assert calls == ["/orders/7"] * 2


def test_one_app(receiver: Receiver, warnings: pytest.LogCaptureFixture) -> None:
    """I want spans of one app alone, before or after `init()`; twice is once."""
    chosen, other, web = flask_app(), flask_app(), fastapi_app()
    assert taskobs.instrument_app(chosen) is chosen
    with taskobs.init(otlp_endpoint=receiver.endpoint):
        taskobs.instrument_app(chosen)
        taskobs.instrument_app(web)
        for app in (chosen, other):
            ask(app)
        ask_asgi(web)
    ask(chosen)
    assert servers(receiver) == [GET, "GET /orders/{order}"]
    assert not warnings.records


def test_one_app_beside_all(receiver: Receiver, warnings: pytest.LogCaptureFixture) -> None:
    """I do both, with my own call as well: one span each."""
    app, mine = flask_app(), flask_app()
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        taskobs.instrument_app(app)
        flask_instrumentation.FlaskInstrumentor().instrument_app(mine)
        taskobs.instrument_app(mine)
        ask(app)
        ask(mine)
    assert servers(receiver) == [GET, GET]
    assert not warnings.records
    flask_instrumentation.FlaskInstrumentor().uninstrument_app(mine)


def test_an_app_that_has_served(receiver: Receiver, warnings: pytest.LogCaptureFixture) -> None:
    """My app has served a request before `init()`, after which Flask takes no more: one line."""
    app = flask_app()
    ask(app)
    with taskobs.init(otlp_endpoint=receiver.endpoint, instrument=True):
        ask(app)
        ask(app)
    [record] = warnings.records
    assert record.getMessage().startswith("taskobs: flask is not instrumented: AssertionError: ")
    ask(app)


def test_no_app_of_a_framework() -> None:
    """I give something else, and the error says what it takes."""
    with pytest.raises(TypeError, match=r"an app of Flask, FastAPI or Starlette, not 'app'"):
        taskobs.instrument_app("app")


def test_an_instrumentor_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its package is not installed: the error names the extra."""
    for _ in install_in(tmp_path, monkeypatch):
        with pytest.raises(MissingExtraError, match=r'pip install "taskobs\[flask\]"'):
            taskobs.instrument_app(flask_app())


def test_switched_off(receiver: Receiver) -> None:
    """I switch taskobs off: the call does nothing, and raises nothing."""
    with taskobs.init(otlp_endpoint=receiver.endpoint, enabled=False):
        taskobs.instrument_app("app")
        ask(taskobs.instrument_app(flask_app()))
    assert not receiver.spans


@pytest.fixture(autouse=True)
def nothing_stays() -> Generator[None]:
    """Leave Flask as it is."""
    kind = flask.Flask
    yield
    assert flask.Flask is kind
