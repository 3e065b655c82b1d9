"""Instrumentors of real libraries, in processes of their own: forks, web frameworks, commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from taskobs.testing.receiver import Receiver

SCOPE = "opentelemetry.instrumentation."
BEGIN = """
import json, os, sys
from celery import Celery
app = Celery("shop", broker="memory://", set_as_current=True)
import taskobs
"""
SQL = """
def ask():
    import sqlite3
    with sqlite3.connect(":memory:") as connection:
        connection.cursor().execute("SELECT 1")
"""


def needs(*libraries: str) -> pytest.MarkDecorator:
    missing = [name for name in libraries if find_spec(f"{SCOPE}{name}") is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs the instrumentation of {missing}")


def run(receiver: Receiver, source: str, folder: Path, **variables: str) -> Any:
    """Run a program to its end; gives what it prints last, as JSON."""
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "TASKOBS_SHUTDOWN_TIMEOUT": "60"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGIN + source],
        env={**os.environ, **own, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "already instrumented" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def scopes(receiver: Receiver) -> Counter[str]:
    return Counter(span.scope.removeprefix(SCOPE) for span in receiver.spans)


@needs("sqlite3")
def test_a_script_that_never_publishes(receiver: Receiver, tmp_path: Path) -> None:
    """My script asks a database and publishes nothing: the statement is a span."""
    run(receiver, SQL + "taskobs.init(instrument=True)\nask()\nprint(1)", tmp_path)
    assert scopes(receiver) == {"sqlite3": 1}


@needs("sqlite3")
def test_the_variable(receiver: Receiver, tmp_path: Path) -> None:
    """My operators ask for it by the variable."""
    run(receiver, SQL + "taskobs.init()\nask()\nprint(1)", tmp_path, TASKOBS_INSTRUMENT="sqlite3")
    assert scopes(receiver) == {"sqlite3": 1}


@needs("flask")  # not of a library that coverage imports by itself
@pytest.mark.parametrize("asked", ["taskobs.init(instrument=['flask'])", "taskobs.init()"])
def test_a_process_that_uses_nothing(receiver: Receiver, tmp_path: Path, asked: str) -> None:
    """I import no library: neither OpenTelemetry nor an instrumentor is imported for it."""
    source = f"{asked}\nprint(json.dumps('opentelemetry' in sys.modules))"
    assert run(receiver, source, tmp_path) is False


OF_CONNECTIONS = {"connect", "PRAGMA"}
SQLALCHEMY = """
import sqlalchemy
before = sqlalchemy.create_engine("sqlite://")
taskobs.init(instrument=True)
engines = [sqlalchemy.create_engine("sqlite://"), before]
for engine in engines:
    with engine.connect() as connected:
        assert connected.execute(sqlalchemy.text("SELECT 2")).scalar() == 2
        one, two = {"x": 1}, {"x": 2}
        connected.execute(sqlalchemy.text("CREATE TABLE t (x INT)"))
        connected.execute(sqlalchemy.text("INSERT INTO t VALUES (:x)"), [one, two])
ask()
print(1)
"""


@needs("sqlalchemy", "sqlite3")
def test_a_statement_through_sqlalchemy(receiver: Receiver, tmp_path: Path) -> None:
    """My driver is instrumented, too: a statement is one span, whichever of the two makes it."""
    run(receiver, SQL + SQLALCHEMY, tmp_path)
    made = [(span.name.split()[0], span.scope.removeprefix(SCOPE)) for span in receiver.spans]
    assert Counter(one for one in made if one[0] not in OF_CONNECTIONS) == {
        **dict.fromkeys([("SELECT", "sqlalchemy"), ("CREATE", "sqlalchemy")], 1),
        ("INSERT", "sqlalchemy"): 1,
        ("SELECT", "sqlite3"): 2,  # of the engine that was made before, and of the driver alone
        **dict.fromkeys([("CREATE", "sqlite3"), ("INSERT", "sqlite3")], 1),
    }


FORKS = """
taskobs.init(instrument=["sqlite3"])
if BEFORE:
    ask()
pid = os.fork()
ask()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
print(json.dumps(pid))
"""


@needs("sqlite3")
@pytest.mark.parametrize("before", [True, False])
def test_forks(receiver: Receiver, tmp_path: Path, *, before: bool) -> None:
    """My process forks, before or after it imports the library: each statement is one span."""
    run(receiver, f"BEFORE = {before}{SQL}{FORKS}", tmp_path)
    assert scopes(receiver) == {"sqlite3": 2 + before}


STARLETTE = """
import asyncio
taskobs.init(instrument=True)
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def page(request=None): return Response("x")
both = FastAPI(), Starlette(routes=[Route("/page", page)])
both[0].add_api_route("/page", page, response_model=None)

async def receive(): return {"type": "http.request", "body": b"", "more_body": False}
async def send(message): pass
for served in both:
    scope = dict(type="http", asgi={"version": "3.0"}, http_version="1.1", method="GET",
        scheme="http", path="/page", raw_path=b"/page", query_string=b"", headers=[],
        server=("localhost", 80), client=("localhost", 1), root_path="")
    asyncio.run(served(scope, receive, send))
print(1)
"""


@needs("fastapi", "starlette")
def test_fastapi_and_starlette(receiver: Receiver, tmp_path: Path) -> None:
    """Both are installed, and FastAPI's class is one of Starlette's: a request is one span."""
    run(receiver, STARLETTE, tmp_path)
    served = [span.scope for span in receiver.spans if span.kind == "server"]
    assert sorted(served) == [f"{SCOPE}fastapi", f"{SCOPE}starlette"]


SETTINGS = """
SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "site_urls"
INSTALLED_APPS = []
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
import taskobs
taskobs.init(instrument=True)
"""
URLS = """
from django.db import connection
from django.http import HttpResponse
from django.urls import path

def page(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("x")

urlpatterns = [path("page", page)]
"""
DJANGO = """
import django
django.setup()
from django.conf import settings
before = list(settings.MIDDLEWARE)
from django.test import Client
if HAS_REQUESTS:
    assert Client().get("/page").content == b"x"
    assert Client().get("/page").content == b"x"
instrumentor = "opentelemetry.instrumentation.django" in sys.modules
print(json.dumps([before, len(settings.MIDDLEWARE), instrumentor]))
"""


@needs("django", "sqlite3")
@pytest.mark.parametrize("has_requests", [True, False])
def test_django(receiver: Receiver, tmp_path: Path, *, has_requests: bool) -> None:
    """I call `init()` in my settings: requests are spans; a worker's settings stay as they are."""
    (tmp_path / "site_settings.py").write_text(SETTINGS)
    (tmp_path / "site_urls.py").write_text(URLS)
    source = f"HAS_REQUESTS = {has_requests}{DJANGO}"
    found = run(receiver, source, tmp_path, DJANGO_SETTINGS_MODULE="site_settings")
    assert found == [[], int(has_requests), has_requests]
    assert scopes(receiver) == ({"django": 2, "sqlite3": 2} if has_requests else {})
    by_id = {span.span_id: span.name for span in receiver.spans}
    statements = [span for span in receiver.spans if span.scope == f"{SCOPE}sqlite3"]
    assert {by_id[span.parent_id] for span in statements} == (
        {"GET page"} if has_requests else set()
    )
