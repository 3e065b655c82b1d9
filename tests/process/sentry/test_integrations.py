"""Which of Sentry's integrations are enabled, and when."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import sentry_sdk

from tests.support.paths import ROOT

DSN = "http://k@127.0.0.1:1/1"
START = """
import json, sys, warnings; warnings.simplefilter("ignore")
from celery import Celery
app = Celery("shop", broker="memory://"); app.set_current()
import sentry_sdk, taskobs
def enabled(): return sorted(getattr(sentry_sdk.get_client(), "integrations", ()))
"""
OURS = START.replace("sentry_sdk, ", "") + f"taskobs.init(sentry_dsn={DSN!r}); import sentry_sdk\n"
HEAVY = ("gevent", "eventlet", "django.conf", "fastapi", "flask", "sqlalchemy", "starlette")
"""What Sentry imports by itself where it is installed."""
LATE = "this"
"""A module of the standard library that nobody imports."""
needs_web = pytest.mark.skipif(
    not all(map(find_spec, ("django", "fastapi", "flask"))), reason="needs web frameworks"
)


def run(source: str) -> Any:
    """Run a program; gives what it prints last, as JSON."""
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_init_imports_no_library_that_the_app_does_not_use() -> None:
    """I have web frameworks installed for other programs: my worker doesn't load them."""
    ours = START.replace("import sentry_sdk, taskobs", "import taskobs")
    source = f"""
from taskobs.celery.roles import Role
taskobs.init(sentry_dsn={DSN!r}).became(Role.BEAT)
print(json.dumps(["sentry_sdk" in sys.modules, *(n for n in {HEAVY} if n in sys.modules)]))
"""
    assert run(ours + source) == [True]


@needs_web
def test_an_integration_comes_with_its_library() -> None:
    """I import Flask and FastAPI after ``init()``, and Sentry knows of requests all the same."""
    source = """
before = enabled()
import flask
between = enabled()
import fastapi
print(json.dumps([before, between, enabled(), sentry_sdk.client.SDK_INFO["name"]]))
"""
    before, between, after, name = run(OURS + source)
    assert "flask" not in before
    assert set(between) == {*before, "flask"}
    assert set(after) == {*between, "fastapi", "starlette"}
    assert name == "sentry.python.flask"


@needs_web
def test_django_has_its_integration_when_it_is_set_up() -> None:
    """Celery imports a little of Django by itself; my own use of it is what counts."""
    source = """
before = enabled()
import django
from django.conf import settings
settings.configure()
django.setup()
print(json.dumps([before, enabled(), hasattr(django.setup, "__wrapped__")]))
"""
    before, after, _ = run(OURS + source)
    assert "django" not in before
    assert set(after) == {*before, "django"}


@needs_web
def test_flask_alone_loads_no_django() -> None:
    """I use Flask and have Django installed: nothing of it is loaded, which may not be usable."""
    source = """
import flask
loaded = [name in sys.modules for name in ("django.conf", "django.http")]
print(json.dumps(["flask" in enabled(), *loaded]))
"""
    assert run(OURS + source) == [True, False, False]


@needs_web
def test_django_that_comes_after_flask_is_whole() -> None:
    """I use Flask first and Django later: what Sentry knows of Django's requests is complete."""
    source = """
import flask
import django
from django.conf import settings
settings.configure()
django.setup()
from django.http.request import RawPostDataException
common = sys.modules["sentry_sdk.integrations._wsgi_common"]
print(json.dumps(["django" in enabled(), common.RawPostDataException is RawPostDataException]))
"""
    assert run(OURS + source) == [True, True]


@needs_web
def test_a_library_that_is_in_use_has_its_integration_at_once() -> None:
    """I import Django and Flask before ``init()``, as most web apps do."""
    source = OURS.replace("import taskobs", "import django.conf, flask, taskobs")
    assert {"django", "flask"} <= set(run(source + "print(json.dumps(enabled()))"))


@needs_web
def test_in_the_end_there_are_as_many_as_sentry_itself_enables() -> None:
    """Nothing that Sentry notes by itself is missing, but for what taskobs does in its place."""
    used = """
import django, fastapi, flask, redis@MORE@
from django.conf import settings
settings.configure()
django.setup()
print(json.dumps(enabled()))
"""
    more = [f", {name}" for name in ("loguru", "sqlalchemy") if find_spec(name)]
    used = used.replace("@MORE@", "".join(more))
    ours = run(OURS + used)
    stock = run(START + f"sentry_sdk.init(dsn={DSN!r})\n" + used)
    assert set(stock) - set(ours) == {"celery"}
    assert set(ours) <= set(stock)


@needs_web
def test_after_close_nothing_is_enabled_any_more() -> None:
    """A session that I have closed leaves Flask alone, and Sentry's own client has all of it."""
    source = f"""
import django
taskobs.init().close()
import flask
print(json.dumps([hasattr(django.setup, "__wrapped__"), enabled()]))
sentry_sdk.init(dsn={DSN!r})
print(json.dumps([hasattr(django.setup, "__wrapped__"), enabled()]))
"""
    wrapped, found = run(OURS + source)
    assert not wrapped
    assert {"celery", "flask", "django"} <= set(found)


@needs_web
@pytest.mark.parametrize("by", ["init", "hand"])
def test_sentry_initialised_by_the_app_later_is_undisturbed(by: str) -> None:
    """I call ``sentry_sdk.init()`` after ``taskobs.init()``: I have what I would have alone."""
    alone = f"sentry_sdk.init(dsn={DSN!r})\nprint(json.dumps(enabled()))"
    if by == "hand":
        alone = f"from sentry_sdk.integrations.fastapi import FastApiIntegration\n{alone}"
    done = run(OURS + alone)
    assert set(run(START + alone)) == {*done, "celery"}


def test_trouble_does_not_reach_an_import(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An integration that breaks costs what it would have noted, not my import."""
    from taskobs.sentry import _compat, integrations

    caplog.set_level("WARNING")  # whatever a worker in this process has set
    client: Any = SimpleNamespace(integrations={}, options={}, is_active=lambda: False)
    broken = ["sentry_sdk.integrations.argv.broken.Missing"]
    monkeypatch.setattr(_compat, "integrations", lambda: broken)
    monkeypatch.setattr(integrations, "_LIBRARIES", {"argv": LATE})
    monkeypatch.delitem(sys.modules, LATE, raising=False)
    monkeypatch.setattr(sentry_sdk.get_global_scope(), "client", client)
    came: list[None] = []
    waiting = integrations.Integrations(client, lambda: came.append(None))
    waiting.enable()
    assert not came
    import_module(LATE)
    import_module(LATE)
    assert client.integrations == {}
    assert len(came) == 1
    waiting.stop()
    assert "telemetry failed" in caplog.text


def test_redis_that_a_worker_imports_late_is_left_alone_too() -> None:
    """The broker's commands are no breadcrumbs, whenever the broker's client is imported."""
    source = """
pipeline = taskobs.init()._live._errors.pipeline
pipeline.ignore_broker_commands()
import redis
parent = enabled()
pipeline.after_fork()
print(json.dumps([parent, enabled()]))
"""
    pytest.importorskip("redis")
    parent, child = run(OURS + source)
    assert "redis" not in parent
    assert set(child) == {*parent, "redis"}
