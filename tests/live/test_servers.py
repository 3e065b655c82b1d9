"""Web servers by the files of the how-to: recycled, reloaded and stopped, they lose nothing."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.docs.pages import files
from tests.live.celery_process import ROOT
from tests.live.chaos.processes import processes_of
from tests.live.deployed import OFF, WORK, failed, told, wait_on_disk
from tests.live.process import LIMIT, Program, wait_until
from tests.live.services import HOST, free_port, listens
from tests.live.test_termination import children, wait_until_asleep
from tests.live.test_web import get, ids, publishes

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Broker, LiveApp

FILES: Final = files(ROOT / "docs/how-to/gunicorn-uwsgi.md")
SITE: Final = "tests.live.apps.flask_wsgi"
REQUESTS: Final = 8
"""After so many, a server replaces a process."""


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """Replace what a file of the page names by what is here."""
    for named, here in changes.items():
        assert named in text, named
        text = text.replace(named, here)
    return text


def buy(port: int, number: int) -> list[str]:
    """Have the server publish tasks."""
    return [get(port, "buy") for _ in range(number)]


def test_gunicorn_is_recycled_reloaded_and_stopped(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """My web server replaces its workers, is reloaded and stopped: each publish is a span, once."""
    unit, port = FILES["/etc/systemd/system/shop-web.service"], free_port()
    [start] = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    changes = {
        "ExecStart=/srv/shop/.venv/bin/gunicorn": f"{sys.executable} -m gunicorn",
        "--bind 127.0.0.1:8000": f"--bind {HOST}:{port} --no-control-socket",
        "--workers 4": "--workers 2",
        "--max-requests 1000 --max-requests-jitter 100": f"--max-requests {REQUESTS}",
        "web:app": f"{SITE}:application",
    }
    command = shlex.split(replaced(start, changes))
    log, env = live.folder / "web.log", live.environment(redis_broker)
    with Program(command, log=log, env=env, cwd=ROOT) as web:
        web.wait_ready(lambda: listens(port))
        published = buy(port, 2 * REQUESTS)
        web.wait_log("Autorestarting worker after current request")
        web.signal("HUP")
        published += buy(port, REQUESTS)
        web.wait_log("Handling signal: hup")
        published += buy(port, REQUESTS)
        assert web.stop() == 0
    assert ids(publishes(receiver)) == dict.fromkeys(published, 1)


@contextmanager
def uwsgi(
    live: LiveApp, broker: Broker, text: str, *, shutdown_timeout: float = 5
) -> Generator[Program]:
    """Run uWSGI with a configuration."""
    config = live.folder / "uwsgi.ini"
    config.write_text(text)
    program = str(Path(sys.executable).with_name("uwsgi"))
    spool = {"TASKOBS_RELAY_SPOOL": str(live.folder / "spool")}
    env = live.environment(broker, {"TASKOBS_SHUTDOWN_TIMEOUT": str(shutdown_timeout), **spool})
    log = live.folder / "web.log"
    with Program([program, "--ini", str(config)], log=log, env=env, cwd=ROOT) as web:
        try:
            yield web
        finally:
            left = workers(web)
            with suppress(ProcessLookupError):  # uWSGI puts each in a session of its own
                for pid in left if web.running else ():
                    os.killpg(pid, signal.SIGKILL)


def workers(web: Program) -> list[int]:
    """Give the process ids of the Celery workers that uWSGI runs."""
    return [pid for pid, command in processes_of(web.pid).items() if "celery" in command]


def uwsgi_ini(live: LiveApp, port: int) -> str:
    """Give the configuration of the page, with the places and numbers of a test."""
    changes = {
        "127.0.0.1:8000": f"{HOST}:{port}",
        "chdir = /srv/shop": f"chdir = {ROOT}",
        "web:app": f"{SITE}:application",
        "processes = 4": "processes = 1",
        # uWSGI replaces no worker that is younger than a minute unless it is told to.
        "max-requests = 1000": f"max-requests = {REQUESTS}\nmin-worker-lifetime = 0",
        "/run/shop/uwsgi.fifo": str(live.folder / "fifo"),
    }
    return replaced(FILES["/srv/shop/uwsgi.ini"], changes)


def test_uwsgi_is_recycled_reloaded_and_stopped(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """My uWSGI replaces its worker, reloads it and is stopped: each publish is a span, once."""
    port = free_port()
    with uwsgi(live, redis_broker, uwsgi_ini(live, port)) as web:
        web.wait_ready(lambda: listens(port))
        published = buy(port, REQUESTS)
        web.wait_log("Respawned uWSGI worker")
        published += buy(port, 2)
        (live.folder / "fifo").write_text("c")
        web.wait_log("chain next victim")
        assert wait_until(lambda: web.log.count("Respawned uWSGI worker") == 2, timeout=LIMIT)
        published += buy(port, 2)
        # uWSGI runs no exit hooks of a worker that is busy with a request's end.
        assert wait_until(lambda: web.log.count("GET /buy") == len(published), timeout=LIMIT)
        wait_until_asleep(web)
        web.stop()
    assert ids(publishes(receiver)) == dict.fromkeys(published, 1)


def test_a_reload_strikes_a_worker_of_uwsgi_that_is_being_recycled(
    live: LiveApp, receiver: Receiver, redis_broker: Broker
) -> None:
    """My uWSGI is reloaded while a worker that has done its share still sends: nothing is lost."""
    port = free_port()
    live.env["OTEL_BSP_SCHEDULE_DELAY"] = "600000"  # so that spans leave at the end only
    receiver.behave(status=503)  # what it sends at its end takes two attempts
    with uwsgi(live, redis_broker, uwsgi_ini(live, port), shutdown_timeout=20) as web:
        web.wait_ready(lambda: listens(port) and len(children(web)) == 1)
        [recycled] = children(web)
        published = buy(port, REQUESTS)
        web.wait_log("is done. Seeya!")
        assert receiver.wait_for(lambda r: bool(r.requests), LIMIT), web.tail()
        os.kill(recycled, signal.SIGHUP)  # as uWSGI does at a reload
        receiver.behave()
        assert receiver.wait_for(lambda r: len(publishes(r)) >= REQUESTS, LIMIT), web.tail()
    assert ids(publishes(receiver)) == dict.fromkeys(published, 1)


def test_a_worker_that_uwsgi_runs(live: LiveApp, receiver: Receiver, redis_broker: Broker) -> None:
    """My worker is killed, then uWSGI is stopped while a task runs and the backend is away."""
    worker = replaced(
        FILES["/srv/shop/uwsgi-worker.ini"],
        {
            "/srv/shop/.venv/bin/celery": f"{sys.executable} -m celery",
            "-A tasks": "-A tests.live.apps.shop",
        },
    )
    port, folder = free_port(), live.folder / "held"
    folder.mkdir()
    included = live.folder / "uwsgi-worker.ini"
    included.write_text(worker)
    with uwsgi(live, redis_broker, f"{uwsgi_ini(live, port)}ini = {included}\n") as web:
        web.wait_ready(lambda: " ready." in web.log)
        producer = live.producer(redis_broker, env=OFF)
        receiver.behave(status=503)
        published: list[str] = producer.run(WORK)
        [main] = workers(web)
        wait_on_disk(main)
        os.kill(main, signal.SIGKILL)
        web.wait_ready(lambda: web.log.count(" ready.") == 2)
        receiver.behave()
        assert receiver.wait_for(lambda r: told(r, published, failed(published)), LIMIT)
        receiver.behave(status=503)
        running = producer.run(f"result = app.hold.delay({str(folder)!r}).id")
        assert wait_until((folder / running).exists, timeout=LIMIT)
        web.signal("TERM")
        web.wait_log("Warm shutdown")
        (folder / "go").touch()
        assert web.wait() == 0
        receiver.behave()
        every = [*published, running]
        assert receiver.wait_for(lambda r: told(r, every, failed(published)), LIMIT), web.tail()
