"""A worker in a bad world: children killed, the backend away and slow, the relay killed.

`misuse` runs a plan and gives the `Verdict`. What is random comes from the plan's seed; which
process is hit at that moment does not, so a seed repeats the weather and not each drop.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.live.celery_process import TROUBLE, Broker, LiveApp
from tests.live.diary import Diary, Finding, Kills
from tests.live.fickle import Backend
from tests.live.process import wait_until

if TYPE_CHECKING:
    from tests.live.celery_process import Producer, Worker

APP = "tests.live.apps.chaos"
CHILDREN = 4
BATCH = 0.2
"""Seconds between two batches of publishes."""
LOST_LATE = 25.0
"""Seconds that a killed run may take until the worker tells: billiard waits for 10."""
A_WHILE = 0.02
BUSY_SHARE = 0.8
"""How many of the kills are aimed at a process that has been within a task for a while."""
PUBLISH = "for name, args in sent: getattr(app, name).delay(*args)"
INSPECT = """
inspect = app.app.control.inspect(timeout=2)
result = [inspect.active(), inspect.reserved()]
"""
Say = Callable[[str], None]
Arguments = Callable[[random.Random], list[object]]
TASKS: tuple[tuple[str, float, Arguments], ...] = (
    ("short", 53, lambda dice: [dice.randrange(1, 4), dice.choice([0, 0.002, 0.01]), False]),
    ("short", 8, lambda dice: [dice.randrange(1, 3), 0.002, True]),
    ("nested", 7, lambda dice: [dice.randrange(1, 4), dice.uniform(0.01, 0.15), False]),
    ("nested", 2, lambda dice: [2, dice.uniform(0.01, 0.15), True]),
    ("nested", 4, lambda dice: [2, dice.uniform(0.3, 1.0), False]),
    ("calls", 6, lambda _: [0.002]),
    ("again", 4, lambda _: [0.002]),
    ("late_short", 10, lambda dice: [2, dice.choice([0, 0.002, 0.01]), False]),
    ("late_short", 1, lambda _: [2, 0.002, True]),
    ("late_nested", 4, lambda dice: [2, dice.uniform(0.01, 0.3), False]),
    ("late_nested", 0.5, lambda dice: [2, dice.uniform(0.01, 0.15), True]),
    ("limited", 0.5, lambda _: []),
)
"""Which tasks are published, how often of a hundred, and with which arguments."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done to a worker, and when; times in seconds from the first publish."""

    seed: int
    tasks: int = 1000
    seconds: float = 25.0
    """How long tasks are published."""
    kills: int = 14
    away: tuple[tuple[float, float], ...] = ((4.0, 14.0),)
    """From when to when nobody listens at the backend's port."""
    slow: tuple[tuple[float, float, float], ...] = ((14.0, 21.0, 0.4),)
    """From when to when the backend takes so long for each answer."""
    relay_kills: tuple[float, ...] = (8.0, 18.0)
    """When the relay is killed; a backend that is there takes nothing at that moment."""
    rude_kills: tuple[float, ...] = ()
    """When the relay is killed in the midst of it: what was just sent may be sent again."""
    recycle: int = 60
    """Tasks after which a child is replaced."""


@dataclass
class Report:
    """What came of a plan."""

    finding: Finding
    diary: Diary
    killed: int = 0
    relays: set[int] = field(default_factory=set[int])
    relay_kills: int = 0
    seconds: float = 0.0
    troubles: list[str] = field(default_factory=list[str])
    """What else was not as it should be, such as a worker that did not stop."""


def choose(dice: random.Random) -> tuple[str, list[object]]:
    """Throw dice for a task and its arguments."""
    [(name, _, arguments)] = dice.choices(TASKS, [weight for _, weight, _ in TASKS])
    return name, arguments(dice)


def processes_of(parent: int) -> dict[int, str]:
    """Give the processes that ``parent`` has started and that live, with their command lines."""
    found: dict[int, str] = {}
    for listing in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in map(int, listing.read_text().split()):
                with contextlib.suppress(OSError):
                    line = Path(f"/proc/{pid}/cmdline").read_bytes()  # empty for a zombie
                    found |= {pid: line.replace(b"\0", b" ").decode()} if line else {}
    return found


def is_relay(command: str) -> bool:
    """Tell a relay from a pool child by its command line or title."""
    return "relay" in command


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}/cmdline").exists()


class Mischief:
    """Carries out a plan against a worker."""

    def __init__(
        self, plan: Plan, worker: Worker, producer: Producer, backend: Backend, diary: Path
    ) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)  # noqa: S311  # no secret
        self._worker, self._producer, self._backend = worker, producer, backend
        self._diary = diary
        self._delay = 0.0
        self.killed: list[int] = []
        self.relay_kills: list[float] = []
        self.relays: set[int] = set()

    def carry_out(self, say: Say, *, relay: bool) -> None:
        """Publish all tasks, with all that happens meanwhile."""
        acts, begun = self._acts(relay=relay), time.monotonic()
        left = self._plan.tasks
        while acts or left:
            now = time.monotonic() - begun
            while acts and acts[0][0] <= now:
                _, what, act = acts.pop(0)
                say(f"{time.monotonic() - begun:6.1f} s: {what}")
                act()
            due = self._plan.tasks * min(1.0, now / self._plan.seconds)
            number = min(left, round(due) - (self._plan.tasks - left))
            if number > 0:
                self._publish(number)
                left -= number
            self.relays |= set(self._find_relays())
            time.sleep(BATCH)

    def _acts(self, *, relay: bool) -> list[tuple[float, str, Callable[[], None]]]:
        plan, acts = self._plan, list[tuple[float, str, Callable[[], None]]]()
        for _ in range(plan.kills):
            when = self._random.uniform(1.0, plan.seconds)
            acts.append((when, "a child is killed", self._kill_child))
        for begin, end in plan.away:
            acts.append((begin, "the backend goes away", self._backend.go_away))
            acts.append((end, "the backend is back", self._come_back))
        for begin, end, delay in plan.slow:
            acts.append((begin + 0.01, f"the backend takes {delay} s", self._slow(delay)))
            acts.append((end, "the backend is quick again", self._slow(0.0)))
        if relay:
            for when in plan.relay_kills:
                acts.append((when, "the relay is killed", self._kill_relay_in_peace))
            for when in plan.rude_kills:
                acts.append((when, "the relay is killed, rudely", self._kill_relay))
        return sorted(acts, key=lambda act: act[0])

    def _come_back(self) -> None:
        self._backend.come_back()
        self._backend.answer_late(self._delay)

    def _slow(self, delay: float) -> Callable[[], None]:
        def act() -> None:
            self._delay = delay
            self._backend.answer_late(delay)

        return act

    def _kill_child(self) -> None:
        relays = self._find_relays()
        children = sorted(processes_of(self._worker.pid).keys() - relays.keys())
        # A run that takes a while is still there when the signal is.
        long_since = Diary.read(self._diary).busy(time.time() - A_WHILE)
        busy = sorted(long_since.intersection(children))
        aimed = busy if busy and self._random.random() < BUSY_SHARE else children
        if aimed:
            chosen = self._random.choice(aimed)
            with contextlib.suppress(ProcessLookupError):
                os.kill(chosen, signal.SIGKILL)
                self.killed.append(chosen)

    def _find_relays(self) -> dict[int, str]:
        found = processes_of(self._worker.pid)
        return {pid: command for pid, command in found.items() if is_relay(command)}

    def _kill_relay(self) -> None:
        if wait_until(lambda: bool(self._find_relays()), timeout=10):
            for pid in self._find_relays():
                self.relays.add(pid)
                os.kill(pid, signal.SIGKILL)
                self.relay_kills.append(time.time())

    def _kill_relay_in_peace(self) -> None:
        self._backend.refuse()
        self._kill_relay()
        self._backend.answer_late(self._delay)

    def _publish(self, number: int) -> None:
        chosen = json.dumps([choose(self._random) for _ in range(number)])
        self._producer.run(f"import json\nsent = json.loads({chosen!r})\n{PUBLISH}")

    def settle(self) -> bool:
        """Wait until the worker has nothing to do, and has told of all that died."""

        def idle() -> bool:
            answers = self._producer.run(INSPECT)
            return all(answer and not any(answer.values()) for answer in answers)

        # Twice: between two messages a worker has nothing to do either.
        patience = LOST_LATE + self._plan.tasks / 20
        return wait_until(lambda: idle() and idle(), timeout=patience, tick=0.5)


def misuse(
    plan: Plan,
    folder: Path,
    broker: Broker,
    *,
    relay: bool,
    say: Say = lambda _: None,
    env: dict[str, str] | None = None,
) -> Report:
    """Carry out a plan against a worker with the relay and a spool, or without; judge it."""
    begun, diary = time.monotonic(), folder / "diary"
    mode = {"TASKOBS_RELAY_SPOOL": str(folder / "spool")} if relay else {"TASKOBS_RELAY": "0"}
    settings = {"APP_DIARY": str(diary), **mode, **(env or {})}
    troubles: list[str] = []
    with Backend() as backend, Backend() as calm:
        with LiveApp(folder, backend.endpoint, backend.dsn) as app:
            app.trouble_expected = True  # told with the rest
            recycling = ("--max-tasks-per-child", str(plan.recycle))
            worker = app.worker(broker, *recycling, concurrency=CHILDREN, app=APP, env=settings)
            # The producer is no part of it: it has a backend that stays.
            outside = {"OTEL_EXPORTER_OTLP_ENDPOINT": calm.endpoint, "SENTRY_DSN": calm.dsn}
            producer = app.producer(broker, app=APP, env={**settings, **outside})
            mischief = Mischief(plan, worker, producer, backend, diary)
            mischief.carry_out(say, relay=relay)
            say("waiting for the worker")
            if not mischief.settle():
                troubles.append("the worker still has tasks")
            if relay and not mischief.relays:
                troubles.append("no relay was seen")
            producer.close()
            say("stopping")
            if (status := worker.stop(timeout=60)) != 0:
                troubles.append(f"the worker ended with {status}")
            if TROUBLE in worker.log:
                troubles.append("the worker's log tells of trouble")
        if not wait_until(lambda: not any(map(alive, mischief.relays)), timeout=30):
            troubles.append("a relay is still there")
        found = Diary.read(diary)
        spans, events = [*backend.spans, *calm.spans], [*backend.events, *calm.events]
        kept = "\n".join(json.dumps({**event.data, "id": event.event_id}) for event in events)
        (folder / "events.jsonl").write_text(kept)
        kills = Kills(frozenset(mischief.killed), tuple(mischief.relay_kills))
        finding = Finding(found, spans, events, worker.log, kills)
    return Report(
        finding,
        found,
        killed=len(mischief.killed),
        relays=mischief.relays,
        relay_kills=len(mischief.relay_kills),
        seconds=time.monotonic() - begun,
        troubles=troubles,
    )
