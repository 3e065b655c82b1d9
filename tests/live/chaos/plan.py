"""What is done to a worker, and when: the same for a seed, but for which process is hit.

`draw` throws the wider dice: each seed has its own mixture of faults. `classic` is the plan of
docs/relay.md's table: children and the relay killed, the backend gone and slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from tests.live.chaos import traffic
from tests.live.chaos.traffic import KIB, TaskChoice


class FaultKind(Enum):
    """What can go wrong; the value is what a progress line says."""

    CHILD_KILLED = "a child is killed"
    IDLE_CHILD_KILLED = "a child is killed when it is idle after a burst"
    IDLE_CHILD_KILLED_UNREAD = "the same, while the relay is stopped"
    RING_OVERFLOWED = "a task records more than a ring holds, while the relay is stopped"
    RELAY_KILLED = "the relay is killed"
    RELAY_KILLED_SENDING = "the relay is killed while it sends"
    RELAY_STOPPED = "the relay is stopped"
    RELAY_SIGNALLED = "the relay gets SIGUSR1, SIGUSR2 and SIGALRM"
    SOCKET_REMOVED = "the relay's socket is removed"
    SPOOL_REMOVED = "the spool's directory is deleted"
    LOCK_REMOVED = "the spool's lock is removed"
    BACKEND_AWAY = "nobody listens at the backend's port"
    BACKEND_SLOW = "the backend takes its time"
    SENTRY_SLOW = "Sentry takes 100 ms for an envelope"
    TOO_LARGE = "the backend answers 413 to large bodies"
    TOO_MANY = "the backend answers 429"


@dataclass(frozen=True)
class Fault:
    """One fault: ``at`` and for how long, in seconds from the first publish."""

    at: float
    kind: FaultKind
    seconds: float = 0.0
    """Infinite for one that lasts until the worker is stopped."""
    amount: float = 0.0
    """Of a slow backend the seconds for each answer, of 413 the bytes that it takes, of 429 the
    seconds of ``Retry-After``; of an idle child, the seconds from its burst to its end."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is published to a worker, and what is done to it meanwhile."""

    seed: int
    tasks: int
    seconds: float
    """How long tasks are published."""
    choices: Sequence[TaskChoice]
    faults: Sequence[Fault]
    recycle: int = 60
    """Tasks after which a child is replaced."""
    spool: bool = True
    """Whether the relay has a spool; else it keeps in memory what waits."""
    stops_without_backend: bool = False
    """Whether the worker stops while the backend is away; then another one takes its place."""
    dice: Random = field(compare=False)
    """For what is drawn as it goes along: tasks, and which child is killed."""

    def __str__(self) -> str:
        """Say how the worker is set up, and how it ends."""
        kept = "with a spool" if self.spool else "without a spool"
        end = ", stopped while the backend is away" if self.stops_without_backend else ""
        return f"{self.tasks} tasks in {self.seconds:.0f} s, {kept}{end}"


@dataclass(frozen=True, kw_only=True)
class ClassicSizes:
    """How long a classic plan is, and when what happens."""

    tasks: int
    seconds: float
    kills: int
    away: tuple[tuple[float, float], ...]
    """From when to when nobody listens at the backend's port."""
    slow: tuple[tuple[float, float, float], ...] = ()
    """From when to when the backend takes so long for each answer."""
    relay_kills: tuple[float, ...] = ()


CLASSIC_LONG = ClassicSizes(
    tasks=6000,
    seconds=120.0,
    kills=80,
    away=((10.0, 20.0), (50.0, 75.0)),
    slow=((20.0, 35.0, 0.5), (90.0, 110.0, 0.3)),
    relay_kills=(15.0, 30.0, 60.0, 85.0),
)
CLASSIC_QUICK = ClassicSizes(
    tasks=1000,
    seconds=25.0,
    kills=14,
    away=((4.0, 14.0),),
    slow=((14.0, 21.0, 0.4),),
    relay_kills=(8.0, 18.0),
)
CLASSIC_WITHOUT_RELAY = ClassicSizes(tasks=400, seconds=8.0, kills=8, away=((2.0, 5.0),))


def classic(seed: int, sizes: ClassicSizes, kills_while_sending: Sequence[float] = ()) -> Plan:
    """Make the plan of docs/relay.md's table."""
    dice = Random(seed)  # noqa: S311  # no secret
    faults = [
        *(
            Fault(dice.uniform(1.0, sizes.seconds), FaultKind.CHILD_KILLED)
            for _ in range(sizes.kills)
        ),
        *(Fault(begin, FaultKind.BACKEND_AWAY, end - begin) for begin, end in sizes.away),
        *(
            Fault(begin + 0.01, FaultKind.BACKEND_SLOW, end - begin, delay)
            for begin, end, delay in sizes.slow
        ),
        *(Fault(when, FaultKind.RELAY_KILLED) for when in sizes.relay_kills),
        *(Fault(when, FaultKind.RELAY_KILLED_SENDING) for when in kills_while_sending),
    ]
    return Plan(
        seed=seed,
        tasks=sizes.tasks,
        seconds=sizes.seconds,
        choices=traffic.CLASSIC,
        faults=_in_order(faults),
        dice=dice,
    )


@dataclass(frozen=True, kw_only=True)
class WideSizes:
    """How long a plan of the wider dice is."""

    tasks: int
    seconds: float
    kills: int


WIDE_LONG = WideSizes(tasks=1500, seconds=36.0, kills=16)
WIDE_QUICK = WideSizes(tasks=600, seconds=18.0, kills=8)
SLOT = 5.0
"""Seconds that belong to one fault of the relay, or of the backend."""
SPOOL_SHARE = 0.7
STOP_SHARE = 0.4
"""How many seeds have a spool, and how many stop while the backend is away."""
LAST = 3.0
"""Seconds before the last publish at which it goes away."""

Draw = Callable[[float, Random], Fault]
"""Makes a fault that begins at a time."""


def _lasting(kind: FaultKind, shortest: float, longest: float, *amounts: float) -> Draw:
    def made(at: float, dice: Random) -> Fault:
        return Fault(at, kind, dice.uniform(shortest, longest), dice.choice(amounts or (0.0,)))

    return made


OF_RELAY: tuple[Draw, ...] = (
    _lasting(FaultKind.RELAY_STOPPED, 0.5, 3.0),
    _lasting(FaultKind.RELAY_SIGNALLED, 0.0, 0.0),
    _lasting(FaultKind.SOCKET_REMOVED, 0.0, 0.0),
    _lasting(FaultKind.IDLE_CHILD_KILLED, 0.0, 0.0, 0.0, 0.05, 0.3, 1.0),
    _lasting(FaultKind.IDLE_CHILD_KILLED_UNREAD, 0.5, 1.5, 0.0, 0.3),
    _lasting(FaultKind.RING_OVERFLOWED, 0.3, 0.3),
)
OF_SPOOL: tuple[Draw, ...] = (
    # Without a spool, what a killed relay has not sent goes with it, and nobody can count it.
    *[_lasting(FaultKind.RELAY_KILLED, 0.0, 0.0)] * 3,
    _lasting(FaultKind.SPOOL_REMOVED, 0.0, 0.0),
    _lasting(FaultKind.LOCK_REMOVED, 0.0, 0.0),
)
OF_BACKEND: tuple[Draw, ...] = (
    _lasting(FaultKind.BACKEND_AWAY, 2.0, 4.5),
    _lasting(FaultKind.BACKEND_SLOW, 2.0, 4.5, 0.2, 0.5),
    _lasting(FaultKind.SENTRY_SLOW, 2.0, 4.5, 0.1),
    _lasting(FaultKind.TOO_LARGE, 2.0, 4.5, 100 * KIB, 300 * KIB, 600 * KIB),
    _lasting(FaultKind.TOO_MANY, 2.0, 4.0, 1.0, 2.0),
)


def draw(seed: int, sizes: WideSizes) -> Plan:
    """Throw the wider dice: a mixture of faults that is this seed's own."""
    dice = Random(f"faults {seed}")  # noqa: S311  # no secret
    spool, stops_without_backend = dice.random() < SPOOL_SHARE, dice.random() < STOP_SHARE
    last = Fault(sizes.seconds - LAST, FaultKind.BACKEND_AWAY, math.inf)
    faults = [
        *_one_a_slot([*OF_RELAY, *(OF_SPOOL if spool else ())], sizes.seconds, dice),
        *_one_a_slot(OF_BACKEND, last.at, dice),
        *([last] if stops_without_backend else ()),
        *(
            Fault(dice.uniform(1.0, sizes.seconds), FaultKind.CHILD_KILLED)
            for _ in range(sizes.kills)
        ),
    ]
    return Plan(
        seed=seed,
        tasks=sizes.tasks,
        seconds=sizes.seconds,
        choices=traffic.WIDE,
        faults=_in_order(faults),
        spool=spool,
        stops_without_backend=stops_without_backend,
        dice=Random(f"tasks {seed}"),  # noqa: S311  # no secret
    )


def _one_a_slot(kinds: Sequence[Draw], seconds: float, dice: Random) -> list[Fault]:
    """Draw one fault for each slot; none comes twice before all have come."""
    faults: list[Fault] = []
    left: list[Draw] = []
    for slot in range(int(seconds / SLOT)):
        left = left or dice.sample(kinds, len(kinds))
        faults.append(left.pop()(1.0 + slot * SLOT + dice.uniform(0.0, 0.5), dice))
    return faults


def _in_order(faults: Sequence[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=lambda fault: fault.at))
