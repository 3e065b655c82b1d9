"""Processes that a signal ends right after they have published: what they had to tell arrives."""

from __future__ import annotations

import json
import os
import signal as signals
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.live.celery_process import ROOT, SHOP
from tests.live.process import LIMIT, Program, wait_until
from tests.live.services import HOST, free_port
from tests.live.shop import QUICK
from tests.live.test_web import APPS, GUNICORN, get, ids, publishes, serving

if TYPE_CHECKING:
    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Broker, LiveApp

UWSGI: Final = ("--http-socket", f"{HOST}:{{port}}", "--die-on-term", "--need-app")
WSGI: Final = ("--module", f"{APPS}.flask_wsgi")
SERVERS: Final = {
    "flask run": ("flask", "--app", f"{APPS}.flask_site:create_app", "run", "-p", "{port}"),
    "runserver": ("django", "runserver", "--noreload", f"{HOST}:{{port}}"),
    "uvicorn without lifespan": (
        *("uvicorn", f"{APPS}.plain_fastapi_site:web"),
        *("--host", HOST, "--port", "{port}"),
    ),
    "gunicorn": (*GUNICORN, f"{APPS}.flask_site:create_app()"),
    "gunicorn gthread": (*GUNICORN, "-k", "gthread", f"{APPS}.flask_site:create_app()"),
    "uwsgi": ("uwsgi", *UWSGI, *WSGI, "--enable-threads"),
    "uwsgi master": ("uwsgi", *UWSGI, *WSGI, "--master", "--lazy-apps", "--enable-threads"),
    "uwsgi preloaded": ("uwsgi", *UWSGI, *WSGI, "--master", "--enable-threads"),
    "uwsgi threads": ("uwsgi", *UWSGI, *WSGI, "--master", "--lazy-apps", "--threads", "2"),
}
DEAD: Final = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{free_port()}",
    "TASKOBS_SHUTDOWN_TIMEOUT": "0.5",
}
UNSENT: Final = "ends with telemetry unsent: no answer within 0.5 s"


def buy_many(web: Program, port: int, server: str) -> list[str]:
    """Have the server publish a hundred tasks, and wait until it can be stopped.

    uWSGI has to be done with its request: it runs no exit hooks of a busy worker.
    """
    before = len(web.log)
    published: list[str] = json.loads(get(port, "buy-many"))
    if "uwsgi" in server:
        assert wait_until(lambda: "GET /buy-many" in web.log[before:], timeout=LIMIT)
        wait_until_asleep(web)
    return published


def wait_until_asleep(web: Program) -> None:
    """Wait until all threads of a server and its workers wait for something: any may serve."""

    def asleep() -> bool:
        with suppress(OSError):  # a process or a thread has just ended
            status = [
                path.read_text().rpartition(") ")[2][0]
                for pid in (web.pid, *children(web))
                for path in Path(f"/proc/{pid}/task").glob("*/stat")
            ]
            return set(status) == {"S"}
        return False

    assert wait_until(asleep, timeout=LIMIT)


def children(web: Program) -> list[int]:
    """Give the processes that a server has started."""
    return [
        int(pid) for pid in Path(f"/proc/{web.pid}/task/{web.pid}/children").read_text().split()
    ]


ENDED_BY: Final = [(server, "TERM") for server in SERVERS] + [
    (server, "HUP") for server in ("flask run", "runserver", "uvicorn without lifespan")
]


@pytest.mark.parametrize(("server", "signal"), ENDED_BY)
def test_a_hundred_publishes_and_a_signal_at_once(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, server: str, signal: str
) -> None:
    """My server publishes a hundred tasks and is stopped at once: a hundred spans are there.

    It ends as it does without taskobs; with a collector that gives no answer it gives up in time.
    """
    with serving(live, redis_broker, SERVERS[server]) as (web, port):
        published = buy_many(web, port, server)
        status = web.stop(signal)
        assert receiver.wait_for(lambda r: len(publishes(r)) >= 100, LIMIT), web.tail()
    assert ids(publishes(receiver)) == dict.fromkeys(published, 1)
    with serving(live, redis_broker, SERVERS[server], TASKOBS_ENABLED="0") as (web, port):
        get(port, "buy-many")
        assert web.stop(signal) == status
    with serving(live, redis_broker, SERVERS[server], **DEAD) as (web, port):
        buy_many(web, port, server)
        assert web.stop(signal) == status
        assert UNSENT in web.log


def test_the_server_behind_a_reloader_is_stopped(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """The reloader of `runserver` serves in a child: SIGTERM ends that, and its spans arrive."""
    command = ("django", "runserver", f"{HOST}:{{port}}")
    with serving(live, redis_broker, command) as (web, port):
        published = buy_many(web, port, "runserver")
        [child] = children(web)
        os.kill(child, signals.SIGTERM)
        assert web.wait() == 0
    assert ids(publishes(receiver)) == dict.fromkeys(published, 1)


def test_uwsgi_with_gevent_exports_at_the_configured_interval(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """The gevent loop of uWSGI runs no exit hook: it exports twice a second, as documented."""
    gevent = ("uwsgi", *UWSGI, *WSGI, "--gevent", "10", "--gevent-early-monkey-patch")
    with serving(live, redis_broker, gevent, OTEL_BSP_SCHEDULE_DELAY="500") as (web, port):
        published = json.loads(get(port, "buy-many"))
        assert receiver.wait_for(lambda r: len(publishes(r)) >= 100, LIMIT), web.tail()
        web.stop()
    assert ids(publishes(receiver)) == dict.fromkeys(published, 1)


WAITS: Final = f"""
from {SHOP} import add
import time
for _ in range(100):
    add.delay(1, 2)
print("published", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("signal", ["TERM", "HUP"])
def test_a_script_that_a_signal_ends(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, signal: str
) -> None:
    """My script handles no signal: it ends by it as ever, and its spans arrive first."""
    with Program(
        [sys.executable, "-c", WAITS],
        log=live.folder / "script.log",
        env=live.environment(redis_broker),
        cwd=ROOT,
    ) as script:
        script.wait_log("published")
        assert script.stop(signal) == {"TERM": -15, "HUP": -1}[signal]
    assert len(publishes(receiver)) == 100


def test_a_dead_collector_does_not_keep_a_script(live: LiveApp, redis_broker: Broker) -> None:
    """My collector gives no answer: my script ends by its signal all the same."""
    with Program(
        [sys.executable, "-c", WAITS],
        log=live.folder / "script.log",
        env=live.environment(redis_broker, DEAD),
        cwd=ROOT,
    ) as script:
        script.wait_log("published")
        assert script.stop("TERM") == -15
        assert UNSENT in script.log


HANDLES: Final = WAITS.replace(
    "import time",
    "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))",
)


def test_a_handler_of_the_app_stays(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """My script has a handler of its own for SIGTERM: that one is called, and nobody else's."""
    with Program(
        [sys.executable, "-c", HANDLES],
        log=live.folder / "script.log",
        env=live.environment(redis_broker),
        cwd=ROOT,
    ) as script:
        script.wait_log("published")
        assert script.stop("TERM") == 7
    assert len(publishes(receiver)) == 100


@pytest.mark.parametrize("patch", ["--gevent-monkey-patch", "--gevent-early-monkey-patch"])
def test_uwsgi_patches_although_django_is_installed(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, patch: str
) -> None:
    """My Flask app on uWSGI's gevent loop has a DSN, and Django is installed: it serves."""
    command = ("uwsgi", *UWSGI, *WSGI, "--gevent", "10", patch)
    with serving(live, redis_broker, command, **QUICK) as (web, port):
        assert len(json.loads(get(port, "buy-many"))) == 100
        assert receiver.wait_for(lambda r: len(publishes(r)) >= 100, LIMIT), web.tail()
