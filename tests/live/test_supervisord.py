"""A worker under supervisord, by the program of the how-to: stops, restarts and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.docs.pages import files
from tests.live.celery_process import ROOT
from tests.live.deployed import OFF, ONE_CHILD, WORK, failed, told, wait_on_disk
from tests.live.process import LIMIT, Program, wait_until
from tests.live.services import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Generator

    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Broker, LiveApp

PAGE: Final = ROOT / "docs/how-to/supervisord.md"
NAME: Final = "shop-worker"
DAEMON: Final = """
[supervisord]
nodaemon=true
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
[inet_http_server]
port={address}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=http://{address}
[include]
files={folder}/{name}.conf
"""


class ProgramOfThePage:
    """The worker, and the supervisord that runs it."""

    def __init__(self, daemon: Program, config: Path, log: Path) -> None:
        self.daemon = daemon
        self._config, self._log = config, log

    def ctl(self, *words: str) -> str:
        """Run ``supervisorctl``, and give what it prints."""
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self._config)]
        done = subprocess.run(
            [*command, *words, NAME], capture_output=True, text=True, timeout=LIMIT, check=False
        )
        return done.stdout.strip()

    @property
    def pid(self) -> int:
        """The process id of the worker; 0 while there is none."""
        return int(self.ctl("pid"))

    def kill(self) -> None:
        """Kill the worker that a failed test leaves: it has a process group of its own."""
        if self.daemon.running and (pid := self.pid):
            os.killpg(pid, signal.SIGKILL)

    def wait_ready(self, times: int) -> None:
        """Wait until workers have been ready this many times."""
        found = wait_until(lambda: self.log.count(" ready.") >= times, timeout=LIMIT)
        assert found, self.log + self.daemon.tail()

    @property
    def log(self) -> str:
        """What the worker and its relay have logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def as_tested(receiver: Receiver, folder: Path) -> str:
    """Give the program of the page, with the places and backends of a test."""
    text = files(PAGE)["/etc/supervisor/conf.d/shop-worker.conf"]
    (folder / "tasks.py").write_text("from tests.live.apps.shop import app\n")
    for named, here in {
        "/srv/shop/.venv/bin/celery": f"{sys.executable} {folder}/celery",
        "directory=/srv/shop": f"directory={folder}",
        "user=shop\n": "",
        "http://localhost:4318": receiver.endpoint,
        "https://key@sentry.example.com/1": receiver.dsn,
        "/var/lib/shop-worker": f"{folder}/spool",
        "/var/log/": f"{folder}/",
    }.items():
        assert named in text
        text = text.replace(named, here)
    # What `python -m celery` would execute anew is a file that can't be run by itself.
    (folder / "celery").write_text("from celery.__main__ import main\nmain()\n")
    return text


@pytest.fixture
def worker(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, tmp_path: Path
) -> Generator[ProgramOfThePage]:
    """The program of the page, started by supervisord."""
    folder = tmp_path / "supervised"
    folder.mkdir()
    (folder / f"{NAME}.conf").write_text(as_tested(receiver, folder))
    config = folder / "supervisord.conf"
    address = f"{HOST}:{free_port()}"
    config.write_text(DAEMON.format(folder=folder, address=address, name=NAME))
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]
    env = live.environment(redis_broker, {"TASKOBS_SHUTDOWN_TIMEOUT": "1", **ONE_CHILD})
    with Program(command, log=folder / "daemon.log", env=env) as daemon:
        running = ProgramOfThePage(daemon, config, folder / "shop-worker.log")
        try:
            running.wait_ready(1)
            yield running
            assert daemon.stop() == 0
        finally:
            running.kill()


def test_a_stop_by_supervisord(
    live: LiveApp,
    receiver: Receiver,
    redis_broker: Broker,
    worker: ProgramOfThePage,
    tmp_path: Path,
) -> None:
    """I stop my worker while a task runs and the backend is away: its relay sends it afterwards."""
    receiver.behave(status=503)
    producer = live.producer(redis_broker, env=OFF)
    ids = producer.run(WORK)
    running = producer.run(f"result = app.hold.delay({str(tmp_path)!r}).id")
    assert wait_until((tmp_path / running).exists, timeout=LIMIT), worker.log
    os.kill(worker.daemon.pid, signal.SIGTERM)  # which stops all programs
    assert wait_until(lambda: "Warm shutdown" in worker.log, timeout=LIMIT)
    (tmp_path / "go").touch()
    assert worker.daemon.wait() == 0
    receiver.behave()
    everything = [*ids, running], failed(ids)
    assert receiver.wait_for(lambda r: told(r, *everything), LIMIT), worker.log


def test_a_restart_and_a_kill_by_supervisord(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, worker: ProgramOfThePage
) -> None:
    """I restart my worker, then it is killed while the backend is away: all is told, once."""
    producer = live.producer(redis_broker, env=OFF)
    ids: list[str] = producer.run(WORK)
    worker.ctl("restart")
    worker.wait_ready(2)
    assert receiver.wait_for(lambda r: told(r, ids, failed(ids)), LIMIT), worker.log
    receiver.behave(status=503)
    ids += producer.run(WORK)
    main = worker.pid
    wait_on_disk(main)
    os.kill(main, signal.SIGKILL)
    worker.wait_ready(3)  # supervisord starts it again
    receiver.behave()
    assert receiver.wait_for(lambda r: told(r, ids, failed(ids)), LIMIT), worker.log
