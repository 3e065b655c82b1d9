"""Web servers, scripts and other processes that publish: no span lost, none twice."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from tests.live.celery_process import ROOT, SHOP
from tests.live.process import LIMIT, Program
from tests.live.services import HOST, free_port, listens

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedSpan
    from tests.live.celery_process import Broker, LiveApp

APPS = "tests.live.apps"
GUNICORN = ("gunicorn", "--no-control-socket", "--bind", f"{HOST}:{{port}}")
SERVERS = {
    "flask": ("flask", "--app", f"{APPS}.flask_site:create_app", "run", "-p", "{port}"),
    "gunicorn": (*GUNICORN, f"{APPS}.flask_site:create_app()"),
    "fastapi": ("uvicorn", f"{APPS}.fastapi_site:web", "--host", HOST, "--port", "{port}"),
    "django": ("django", "runserver", "--noreload", f"{HOST}:{{port}}"),
    "django-gunicorn": (*GUNICORN, f"{APPS}.django_site.wsgi:application"),
}
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


@contextmanager
def serving(
    live: LiveApp, broker: Broker, command: Sequence[str], **env: str
) -> Generator[tuple[Program, int]]:
    """Run a web server that is a producer of the broker's; gives its port, too."""
    port = free_port()
    program, *arguments = [word.format(port=port) for word in command]
    # uWSGI is a program, not a module.
    own = str(Path(sys.executable).with_name(program))
    start = [own] if program == "uwsgi" else [*live.launcher, "-m", program]
    full = live.environment(broker, {"DJANGO_SETTINGS_MODULE": f"{APPS}.django_site.settings"})
    log = live.folder / "web.log"
    with Program([*start, *arguments], log=log, env={**full, **env}, cwd=ROOT) as server:
        server.wait_ready(lambda: listens(port))
        yield server, port


def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> str:
    """Ask the server for a page."""
    url = f"http://{HOST}:{port}/{path}"
    request = urllib.request.Request(url, headers=dict(headers or {}))
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:  # noqa: S310
        return str(answer.read().decode())


def publishes(receiver: Receiver) -> list[ReceivedSpan]:
    """All publish spans that came."""
    return [span for span in receiver.spans if span.name.startswith(semconv.PUBLISH_SPAN)]


def ids(spans: Sequence[ReceivedSpan]) -> Counter[str]:
    """The tasks of spans."""
    return Counter(str(span.attributes[semconv.MESSAGING_MESSAGE_ID]) for span in spans)


def one_trace_each(receiver: Receiver, published: Sequence[str]) -> None:
    """Each task has one publish, and one run as its child."""
    runs = [span for span in receiver.spans if span.name.startswith(semconv.RUN_SPAN)]
    sent = publishes(receiver)
    assert ids(sent) == ids(runs) == Counter(published)
    addresses = {(span.trace_id, span.span_id) for span in sent}
    assert {(run.trace_id, run.parent_id) for run in runs} == addresses


@pytest.mark.parametrize("server", SERVERS)
def test_web_servers(live: LiveApp, receiver: Receiver, redis_broker: Broker, server: str) -> None:
    """My web server publishes, is stopped at once, and each of its tasks is one trace."""
    app = f"{APPS}.django_site" if "django" in server else SHOP
    worker = live.worker(redis_broker, app=app)
    paths = ["buy", "buy-sync"] if server == "fastapi" else ["buy"]
    with serving(live, redis_broker, SERVERS[server]) as (web, port):
        published = [get(port, path) for path in paths]
        called = [get(port, path, CALLED) for path in paths]
        for task_id in [*published, *called]:
            worker.wait_log(f"[{task_id}] succeeded")
        web.stop("INT" if server in {"flask", "django"} else "TERM")
    worker.stop()
    one_trace_each(receiver, [*published, *called])
    requests = {span.span_id for span in receiver.spans if span.name == "GET /buy"}
    for span in publishes(receiver):
        goes_on = span.attributes[semconv.MESSAGING_MESSAGE_ID] in called
        assert (span.trace_id == TRACE, span.parent_id in requests) == (goes_on, goes_on)
    assert len({span.trace_id for span in publishes(receiver)}) == len(paths) + 1


def test_gunicorn_that_publishes_before_and_after_its_forks(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """I preload my app, which publishes while it loads: master and workers lose nothing."""
    worker = live.worker(redis_broker)
    command = (*GUNICORN, "--preload", "--workers", "2", f"{APPS}.preloaded_site:web")
    with serving(live, redis_broker, command) as (web, port):
        published = [*json.loads(get(port, "early")), *(get(port, "buy") for _ in range(12))]
        for task_id in published:
            worker.wait_log(f"[{task_id}] succeeded")
        assert web.stop("TERM") == 0
    worker.stop()
    one_trace_each(receiver, published)
    assert {request.status for request in receiver.requests} == {200}


SCRIPT = f"from {SHOP} import add\n"
FORKS = """
import multiprocessing
def publish():
    for _ in range(5):
        add.delay(1, 2)
if __name__ == "__main__":
    publish()
    children = [multiprocessing.get_context("fork").Process(target=publish) for _ in range(3)]
    for child in children: child.start()
    publish()
    for child in children: child.join()
    assert all(child.exitcode == 0 for child in children)
"""
ENDS = {
    "last line": (("-c", SCRIPT + "add.delay(1, 2)"), 1, 0),
    "exit": (("-c", SCRIPT + "add.delay(1, 2); raise SystemExit(3)"), 1, 3),
    "error": (("-c", SCRIPT + "add.delay(1, 2); raise ValueError"), 1, 1),
    "shell": (("-i", "-c", SCRIPT + "add.delay(1, 2)"), 1, 0),
    "multiprocessing": (("-c", SCRIPT + FORKS), 25, 0),
}


@pytest.mark.parametrize("how", ENDS)
def test_processes_that_end(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, how: str
) -> None:
    """My script ends right after it has published, and its spans are there."""
    arguments, number, status = ENDS[how]
    command = [sys.executable, *arguments]
    with Program(command, log=live.folder / "script.log", env=live.environment(redis_broker)) as it:
        assert it.wait() == status, it.tail()
    sent = publishes(receiver)
    assert len(sent) == number, it.tail()
    assert set(ids(sent).values()) == {1}
    assert all(span.parent_id == "" for span in sent)
