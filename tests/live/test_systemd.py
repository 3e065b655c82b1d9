"""A worker under systemd, by the unit of the how-to: stops, reloads, kills, and the spool."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest

from taskobs import semconv
from tests.docs.pages import files
from tests.live.conftest import skip_if_missing
from tests.live.deployed import OFF, ON_DISK, ONE_CHILD, WORK, failed, told
from tests.live.process import LIMIT, wait_until
from tests.live.systemd import CHECKOUT, HOME, Systemd, systemd
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from taskobs.testing.receiver import Receiver
    from tests.live.celery_process import Broker, LiveApp

PAGE: Final = ROOT / "docs/how-to/systemd.md"
FOLDER: Final = "/etc/systemd/system"
UNIT: Final = "shop-worker.service"
LOG: Final = HOME / "worker.log"
STATE: Final = "var/lib/shop-worker"
TESTED: Final = f"""
[Service]
# The interpreter of the tests may be one that only root can read.
User=
StandardOutput=append:{LOG}
StandardError=inherit
"""


class UnitOfThePage:
    """The worker's service, in a systemd of its own."""

    def __init__(self, booted: Systemd, variables: Mapping[str, str]) -> None:
        self.booted = booted
        booted.write_environment("worker.env", variables)

    def install(self, *, isolated: bool = False, **changes: str) -> None:
        """Install the unit of the page, with changes to its section ``[Service]``."""
        changed = "".join(f"{name}={value}\n" for name, value in changes.items())
        drop_ins = {"tested": TESTED, "changed": f"[Service]\n{changed}"}
        if isolated:
            drop_ins["isolation"] = files(PAGE)[f"{FOLDER}/{UNIT}.d/isolation.conf"]
        self.booted.write_unit(UNIT, files(PAGE)[f"{FOLDER}/{UNIT}"], **drop_ins)

    def ctl(self, *words: str) -> str:
        """Call systemctl for the unit."""
        return self.booted.ctl(*words, UNIT)

    def show(self, name: str) -> str:
        """Give a property of the unit."""
        return self.booted.show(UNIT, name)

    def start(self) -> None:
        """Start it, and wait until the worker is ready."""
        before = self.log.count(" ready.")
        self.ctl("start")
        self.wait_ready(before + 1)

    def wait_ready(self, times: int) -> None:
        """Wait until workers have been ready this many times."""
        assert wait_until(lambda: self.log.count(" ready.") >= times, timeout=LIMIT), self.log

    def wait_log(self, text: str) -> None:
        """Wait until the worker's log has a text."""
        assert wait_until(lambda: text in self.log, timeout=LIMIT), self.log

    def wait_for(self, name: str, value: str) -> None:
        """Wait until a property has a value."""
        assert wait_until(lambda: self.show(name) == value, timeout=LIMIT), self.ctl("show")

    @property
    def log(self) -> str:
        """What the worker and its relay have logged."""
        path = self.booted.root / str(LOG)[1:]
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def spooled(self) -> list[object]:
        """What ``taskobs status`` tells of each relay: one that a reload replaces may be there."""
        variables = ["XDG_RUNTIME_DIR=/run/shop-worker", f"PYTHONPATH={CHECKOUT}"]
        python = str(HOME / ".venv/bin/python")
        printed = self.booted.run("env", *variables, python, "-m", "taskobs", "status", "--json")
        relays: list[dict[str, object]] = json.loads(printed)
        return [relay.get("spooled") for relay in relays]


@pytest.fixture
def unit(live: LiveApp, redis_broker: Broker, tmp_path: Path) -> Generator[UnitOfThePage]:
    """The unit of the page, for an app of the tests, in a systemd of its own."""
    wanted = ("OTEL_", "SENTRY_", "APP_")
    every = live.environment(redis_broker, ONE_CHILD)
    variables = {k: v for k, v in every.items() if k.startswith(wanted)}
    with ExitStack() as stack:
        with skip_if_missing():
            booted = stack.enter_context(systemd(tmp_path / "systemd"))
        (booted.folder / "shop/tasks.py").write_text("from tests.live.apps.shop import app\n")
        yield UnitOfThePage(booted, {**variables, "PYTHONPATH": str(CHECKOUT)})


RELAY_OUTLIVES: Final = {"mixed": False, "control-group": True, "process": True}
"""Whether the relay outlives its worker, by what ``KillMode`` is."""


@pytest.mark.parametrize("mode", RELAY_OUTLIVES)
def test_a_stop_by_systemd(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, unit: UnitOfThePage, mode: str
) -> None:
    """I stop my worker while a task runs, the backend is away: the page says what is sent when."""
    receiver.behave(status=503)
    unit.install(KillMode=mode, Environment="TASKOBS_SHUTDOWN_TIMEOUT=1")
    unit.start()
    producer = live.producer(redis_broker, env=OFF)
    ids = producer.run(WORK)
    held = unit.booted.root / STATE / "held"
    held.mkdir()
    running = producer.run(f"result = app.hold.delay('/{STATE}/held').id")
    assert wait_until((held / running).exists, timeout=LIMIT), unit.log
    unit.ctl("stop", "--no-block")
    unit.wait_log("Warm shutdown")
    if mode != "control-group":  # there, SIGTERM ends the task's process, too
        (held / "go").touch()
    unit.wait_for("MainPID", "0")
    if not RELAY_OUTLIVES[mode]:
        unit.wait_for("ActiveState", "inactive")
        assert not receiver.spans
        receiver.behave()
        unit.start()
    receiver.behave()
    ended = [running] if mode == "control-group" else []
    everything = [*ids, running], [*failed(ids), *ended]
    assert receiver.wait_for(lambda r: told(r, *everything), LIMIT), unit.log
    outcomes = {
        span.attributes[semconv.MESSAGING_MESSAGE_ID]: span.attributes[semconv.CELERY_OUTCOME]
        for span in receiver.spans
        if span.kind == "consumer"
    }
    assert outcomes[running] == ("lost" if ended else "succeeded")
    unit.ctl("stop")
    unit.wait_for("ActiveState", "inactive")


def test_a_reload_and_a_kill_under_systemd(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, unit: UnitOfThePage
) -> None:
    """I isolate my worker, reload it, and it is killed while the backend is away: all is told."""
    unit.install(isolated=True)
    unit.start()
    producer = live.producer(redis_broker, env=OFF)
    main = unit.show("MainPID")
    ids = producer.run(WORK)
    unit.ctl("reload")
    unit.wait_ready(2)
    assert unit.show("MainPID") == main
    assert receiver.wait_for(lambda r: told(r, ids, failed(ids)), LIMIT), unit.log
    receiver.behave(status=503)
    more = producer.run(WORK)
    assert wait_until(lambda: unit.spooled == [ON_DISK], timeout=LIMIT), unit.spooled
    unit.ctl("kill", "--signal=KILL", "--kill-who=main")
    unit.wait_ready(3)  # systemd starts it again
    receiver.behave()
    everything = [*ids, *more], [*failed(ids), *failed(more)]
    assert receiver.wait_for(lambda r: told(r, *everything), LIMIT), unit.log
    assert unit.show("NRestarts") == "1"
    unit.ctl("stop")
    assert unit.show("Result") == "success"
    assert told(receiver, *everything)
