"""The troubles of a worker and of beat themselves: each reaches Sentry, and once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis import Redis

from tests.live import services
from tests.live.celery_process import Broker, LiveApp
from tests.live.conftest import skip_if_missing
from tests.live.process import LIMIT, Program, wait_until
from tests.live.shop import QUICK
from tests.live.test_beat import schedule

if TYPE_CHECKING:
    from pathlib import Path

    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedEvent

TROUBLED = "tests.live.apps.troubled"
BROKEN = "tests.live.apps.broken_tasks"


def told(event: ReceivedEvent) -> str:
    """Give the type of the last exception of an event, or its message."""
    data = cast("dict[str, Any]", event.data)
    if "exception" in data:
        return str(data["exception"]["values"][-1]["type"])
    return str(data["logentry"]["message"])


def arrived(receiver: Receiver, number: int) -> bool:
    """Wait for that many events."""
    return receiver.wait_for(lambda _: len(receiver.events) >= number, LIMIT)


def loggers(receiver: Receiver) -> Counter[str]:
    """Count the events by the logger that they come from."""
    return Counter(str(event.data.get("logger")) for event in receiver.events)


def more(program: Program, text: str, number: int) -> None:
    """Wait until a program has logged ``text`` that many times more."""
    wanted = program.log.count(text) + number
    assert wait_until(lambda: program.log.count(text) >= wanted, timeout=LIMIT), program.tail()


def rest(beat: Program, port: int) -> None:
    """Stop beat, until SIGCONT, and wait until no message waits, nor is held by a worker.

    A worker whose broker goes while it holds a message it has not acknowledged may end by an
    AttributeError of kombu's (``restore_unacked``, on a connection that is closed already).
    """
    beat.signal("STOP")
    with Redis(services.HOST, port) as broker:
        assert wait_until(lambda: not broker.exists("celery", "unacked"), timeout=LIMIT)


@pytest.mark.parametrize("how", ["include", "imports", "autodiscover"])
def test_a_module_that_cannot_be_imported_is_one_event(
    file_broker: Broker, live: LiveApp, receiver: Receiver, how: str
) -> None:
    """My worker doesn't start after a deploy, and Sentry tells me which import it is."""
    env = {"APP_TROUBLE": how}
    if how == "imports":
        env["APP_CONFIG"] = f'{{"imports": ["{BROKEN}"]}}'
    args = ["-I", BROKEN] if how == "include" else []
    worker = live.worker(file_broker, *args, app=TROUBLED, env=env, ready=False)
    assert worker.wait() != 0
    assert [told(event) for event in receiver.events] == ["ImportError"]


def test_a_module_that_the_app_itself_needs_is_left_to_celery(
    file_broker: Broker, live: LiveApp, receiver: Receiver
) -> None:
    """Celery prints what is wrong and exits; taskobs hears nothing of it."""
    worker = live.worker(file_broker, app=TROUBLED, env={"APP_TROUBLE": "load"}, ready=False)
    assert worker.wait() != 0
    assert "no module named as it was yesterday" in worker.log
    assert not receiver.events


def test_a_failing_worker_init_is_one_event(
    file_broker: Broker, live: LiveApp, receiver: Receiver
) -> None:
    """What I do at `worker_init` raised; Celery only logs it, and Sentry has it."""
    worker = live.worker(file_broker, app=TROUBLED, env={"APP_TROUBLE": "worker_init"})
    assert worker.stop() == 0
    assert [told(event) for event in receiver.events] == ["RuntimeError"]


def test_an_outage_of_the_broker_is_one_event_a_process(
    live: LiveApp, receiver: Receiver, tmp_path: Path
) -> None:
    """The broker was down for a while, twice; I got two events of a process, not two hundred."""
    port = services.free_port()
    results = tmp_path / "results"
    results.mkdir()
    broker = Broker("redis", f"redis://127.0.0.1:{port}/0", f"file://{results}")
    env = {**QUICK, **schedule(often={"task": "add", "args": [1, 2], "schedule": 0.5})}
    with skip_if_missing(), services.redis(tmp_path, port):
        worker = live.worker(broker, env=env)
        beat = live.beat(broker, env=env)
        more(worker, "succeeded in", 1)
        rest(beat, port)
    for outages in (1, 2):
        beat.signal("CONT")
        more(worker, "Cannot connect to", 2)
        more(beat, "Message Error", 3)
        with services.redis(tmp_path, port):
            more(worker, "succeeded in", 1)
            # Before the broker goes again: the next outage is told as soon as it begins.
            assert arrived(receiver, 2 * outages)
            counted = {"celery.worker.consumer.consumer": outages, "celery.beat": outages}
            assert loggers(receiver) == counted
            rest(beat, port)
    beat.signal("CONT")
    beat.stop()
    worker.stop()
    ticks = [span for span in receiver.spans if span.name.startswith("publish ")]
    assert len({tick.trace_id for tick in ticks}) == len(ticks)
    assert {tick.parent_id for tick in ticks} == {""}
    assert {tick.status for tick in ticks} == {"unset", "error"}
