"""The outcome table, declared once: its rows, what must arrive for each, and on which pools.

Live tests name their row: ``@pytest.mark.row("exception")``, or, where a row has several cases,
``@pytest.mark.row("retry", "autoretry_for")``. `tests.live.recorder` holds what arrives to it, and
`tools.outcome_table` makes `docs/outcomes.md` of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

FORK, SPAWN, SOLO, THREADS, GEVENT, EVENTLET = (
    "prefork, fork",
    "prefork, spawn",
    "solo",
    "threads",
    "gevent",
    "eventlet",
)
POOLS: Final = (FORK, SPAWN, SOLO, THREADS, GEVENT, EVENTLET)
PRODUCER: Final = "no worker"
"""Where no worker takes part."""
COLUMNS: Final = (*POOLS, PRODUCER)


def shape(publishes: int | str, runs: str | Sequence[str], events: int) -> str:
    """Say what arrived of one task.

    Args:
        publishes: how many that went well, or how one ended that did not.
        runs: how each ended, oldest first: ``ERROR`` where the span's status is that, the outcome,
            and in brackets what else is noted.
        events: how many Sentry events are tagged with the task.
    """
    ends = [runs] if isinstance(runs, str) else list(runs)
    first = {0: "no publish", 1: "publish ok"}
    told = [
        f"publish {publishes}"
        if isinstance(publishes, str)
        else first.get(publishes, f"{publishes} publishes ok"),
        f"run{'s' * (len(ends) > 1)} {', '.join(ends)}" if ends else "no run",
        f"{events} event{'s' * (events != 1)}",
    ]
    return " · ".join(told)


OK: Final = shape(1, "succeeded", 0)
FAILED: Final = shape(1, "ERROR failed", 1)
LOST: Final = shape(1, "ERROR lost", 1)
NEVER_RAN: Final = shape(1, (), 0)
REVOKED: Final = shape(1, "revoked", 0)
UNKNOWN: Final = shape(1, "ERROR unknown", 1)
CUT_SHORT: Final = (shape("ERROR", (), 0), shape("ERROR", "succeeded", 0))
"""A publish that the stop of its process ended with `SystemExit`, before or after it was sent."""
OF_THE_WORKER: Final = shape(0, (), 1)
"""An event that is of no task: a worker that broke as it ended."""
RETRIED: Final = shape(3, ("retried", "retried", "succeeded"), 0)
EXHAUSTED: Final = shape(2, ("retried", "ERROR failed"), 1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of the page: one way in which the situation comes about."""

    name: str
    shapes: tuple[str, ...]
    """What must arrive, each at least once on each pool."""
    also: tuple[str, ...] = ()
    """What may arrive beside it, of tasks that only help."""
    columns: tuple[str, ...] = POOLS
    """Where it can happen."""
    elsewhere: Mapping[str, str] = field(default_factory=dict[str, str])
    """The reasons why it can't happen on the other pools."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A situation of the outcome table, and what the table says of it."""

    key: str
    situation: str
    publish: str
    runs: str
    sentry: str
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Record:
    """What one test saw of one case on one pool."""

    row: str
    case: str
    column: str
    broker: str
    test: str
    arrived: Mapping[str, int]
    """How many tasks, by what came of each: see `shape`."""
    versions: Mapping[str, str]
    """The releases that it ran with, by name."""


def only_on(columns: Sequence[str], reason: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Give where something can happen, and for all other pools why not."""
    return tuple(columns), {pool: reason for pool in POOLS if pool not in columns}


def case(
    name: str,
    *shapes: str,
    also: Sequence[str] = (),
    only: tuple[tuple[str, ...], Mapping[str, str]] = (POOLS, {}),
) -> Case:
    """Make a case; ``only`` comes from `only_on`."""
    columns, elsewhere = only
    return Case(name=name, shapes=shapes, also=tuple(also), columns=columns, elsewhere=elsewhere)


PREFORK: Final = (FORK, SPAWN)
HERE: Final = only_on((PRODUCER,), "happens in the process that publishes")
CHILDREN: Final = only_on(PREFORK, "there are no pool children: the worker runs tasks itself")
SOFT: Final = only_on(PREFORK, "Celery has no soft time limits on this pool")
HARD: Final = only_on((*PREFORK, GEVENT), "Celery has no hard time limits on this pool")
TERMINATED: Final = only_on((*PREFORK, GEVENT, EVENTLET), "Celery can't end a running task here")
RESTARTED: Final = only_on(PREFORK, "Celery can't restart this pool")
EMBEDDED: Final = only_on((*PREFORK, SOLO, THREADS), "Celery refuses `-B` on this pool")
RESTORED: Final = (
    (*PREFORK, THREADS),
    {
        SOLO: "the worker fetches nothing while it runs a task",
        GEVENT: "kombu stands still when it would fetch a message again, also without taskobs",
        EVENTLET: "kombu stands still when it would fetch a message again, also without taskobs",
    },
)
WAITING: Final = only_on((*PREFORK, THREADS), "Celery's soft stop lets no task of this pool go on")
CROWDED: Final = only_on((THREADS, GEVENT, EVENTLET), "a process runs one task at a time")

ROWS: Final = (
    Row(
        key="success",
        situation="success",
        publish="ok",
        runs="ok, child of publish",
        sentry="0",
        cases=(case("success", OK),),
    ),
    Row(
        key="send_task",
        situation="`send_task` of a name this process does not know",
        publish="ok, real duration",
        runs="ok",
        sentry="0",
        cases=(case("send_task", OK),),
    ),
    Row(
        key="broker refuses",
        situation="broker refuses",
        publish="ERROR, exception recorded, nothing left current",
        runs="none",
        sentry="0 (the caller's own error)",
        cases=(case("broker refuses", shape("ERROR", (), 0), only=HERE),),
    ),
    Row(
        key="exception",
        situation="exception",
        publish="ok",
        runs="ERROR, exception recorded",
        sentry="1",
        cases=(case("exception", FAILED),),
    ),
    Row(
        key="throws",
        situation="exception in `throws`",
        publish="ok",
        runs="not ERROR; exception noted; outcome failed, `expected`",
        sentry="0",
        cases=(case("throws", shape(1, "failed (expected)", 0)),),
    ),
    Row(
        key="retry",
        situation="`retry` / `autoretry_for`, then success",
        publish="ok each",
        runs="one per attempt; retried ones not ERROR, reason noted, linked to the attempt before; "
        "all siblings under the first publish, not nested deeper each time",
        sentry="0",
        cases=(case("retry", RETRIED), case("autoretry_for", RETRIED)),
    ),
    Row(
        key="exhausted",
        situation="retries exhausted",
        publish="ok each",
        runs="last ERROR",
        sentry="1",
        cases=(case("exhausted", EXHAUSTED),),
    ),
    Row(
        key="ignore, reject",
        situation="`Ignore`, `Reject` (requeue or not)",
        publish="ok",
        runs="outcome ignored / rejected, not ERROR",
        sentry="0",
        cases=(
            case("Ignore", shape(1, "ignored", 0)),
            case("Reject", shape(1, "rejected", 0)),
            case("Reject, requeue", shape(1, ("rejected", "succeeded (redelivered)"), 0)),
        ),
    ),
    Row(
        key="soft time limit",
        situation="soft time limit",
        publish="ok",
        runs="ERROR",
        sentry="1, fingerprinted per task",
        cases=(case("soft time limit", FAILED, only=SOFT),),
    ),
    Row(
        key="hard time limit",
        situation="hard time limit",
        publish="ok",
        runs="ERROR, outcome lost, real start and end",
        sentry="1, from the parent, tagged as any other",
        cases=(case("hard time limit", LOST, only=HARD),),
    ),
    Row(
        key="child dies",
        situation="child dies (SIGKILL, OOM, `os._exit`, segfault)",
        publish="ok",
        runs="ERROR, outcome lost, with the spans that were still open inside it",
        sentry="1",
        cases=tuple(case(how, LOST, only=CHILDREN) for how in ("SIGKILL", "os._exit", "segfault")),
    ),
    Row(
        key="revoked, expired",
        situation="revoked before its run; expired",
        publish="ok",
        runs="a zero-length run span, outcome revoked / expired, not ERROR",
        sentry="0",
        cases=(
            case("revoked by id", REVOKED, also=(OK,)),
            case("revoked by a stamp", REVOKED, also=(OK,)),
            case("expired", shape(1, "expired", 0)),
        ),
    ),
    Row(
        key="terminated",
        situation="revoked with `terminate=True` while running",
        publish="ok",
        runs="ERROR-free, outcome revoked, with signal name",
        sentry="0",
        cases=(case("terminated", REVOKED, only=TERMINATED),),
    ),
    Row(
        key="unknown",
        situation="unknown task name; undecodable message",
        publish="ok",
        runs="ERROR run span in the worker, outcome unknown",
        sentry="1",
        cases=(
            case("unknown name", UNKNOWN),
            case("undecodable", UNKNOWN),
            case("cut short", shape(0, "ERROR unknown", 1)),
        ),
    ),
    Row(
        key="stops",
        situation="worker: warm, soft, cold stop; `max-tasks-per-child`; `max-memory-per-child`; "
        "pool restart",
        publish="ok",
        runs="none lost",
        sentry="none lost",
        cases=(
            case("warm", FAILED, also=(OK, NEVER_RAN)),
            case("soft", OK, only=WAITING),
            case(
                "cold",
                OK,
                FAILED,
                also=(NEVER_RAN, REVOKED, LOST, shape(1, "ERROR lost", 0), OF_THE_WORKER),
            ),
            case("max-tasks-per-child", OK, FAILED, only=CHILDREN),
            case("max-memory-per-child", OK, FAILED, only=CHILDREN),
            case("pool restart", OK, FAILED, only=RESTARTED),
        ),
    ),
    Row(
        key="eager",
        situation="eager: `apply()`, `task_always_eager`",
        publish="as far as Celery publishes",
        runs="ok, child of the caller's span; eager runs nest and restore",
        sentry="as above",
        cases=(
            case(
                "apply",
                shape(0, "succeeded", 0),
                shape(0, "ERROR failed", 1),
                also=(shape(0, "ERROR failed", 0), shape(0, "ignored", 0)),
                only=HERE,
            ),
            case(
                "task_always_eager",
                shape(0, "succeeded", 0),
                shape(0, "ERROR failed", 1),
                shape(0, ("retried", "retried", "succeeded"), 0),
                only=HERE,
            ),
            case(
                "inside a run",
                shape(0, "succeeded", 0),
                shape(0, "ERROR failed", 1),
                also=(OK, shape(1, "ERROR failed", 0)),
            ),
        ),
    ),
    Row(
        key="canvas",
        situation="chain, group, chord, map/starmap/chunks, `replace`, `link`, `link_error`",
        publish="ok each",
        runs="one trace; chord callback linked to every header run; `celery.root_id`, "
        "`celery.parent_id`, `celery.group_id` on each",
        sentry="as above",
        cases=(
            case("chain", OK),
            case("group", OK, also=(NEVER_RAN,)),
            case(
                "chord",
                OK,
                FAILED,
                also=(NEVER_RAN, shape(2, ("retried", "succeeded"), 0)),
            ),
            case("map/starmap/chunks", OK, also=(NEVER_RAN,)),
            case(
                "replace",
                shape(2, ("ignored", "succeeded"), 0),  # what replaces a task takes its id
                also=(OK,),
            ),
            case("link", OK),
            case("link_error", OK, FAILED),
        ),
    ),
    Row(
        key="later",
        situation="ETA, countdown",
        publish="ok",
        runs="queue latency counts from the ETA",
        sentry="0",
        cases=(case("ETA", OK), case("countdown", OK)),
    ),
    Row(
        key="beat",
        situation="beat entry (embedded beat too)",
        publish="a new trace each tick, PRODUCER",
        runs="ok",
        sentry="check-ins, when asked for",
        cases=(
            case("beat", OK, also=(NEVER_RAN,)),
            case("embedded beat", OK, also=(NEVER_RAN, *CUT_SHORT), only=EMBEDDED),
        ),
    ),
    Row(
        key="redelivery",
        situation="redelivery with `acks_late`",
        publish="ok",
        runs="one run span per delivery, `redelivered` noted",
        sentry="as above",
        cases=(
            case(
                "reject_on_worker_lost",
                shape(1, ("ERROR lost", "succeeded (redelivered)"), 1),
                only=CHILDREN,
            ),
            case(
                "visibility timeout",
                shape(1, ("succeeded", "succeeded (redelivered)"), 0),
                only=RESTORED,
            ),
        ),
    ),
    Row(
        key="baggage, headers, stamps",
        situation="OTel baggage, user headers, stamped headers",
        publish="all arrive; none of ours collide with them",
        runs="",
        sentry="",
        cases=(case("baggage, headers, stamps", OK),),
    ),
    Row(
        key="protocol 1",
        situation="task message protocol 1",
        publish="trace not broken",
        runs="ok",
        sentry="as above",
        cases=(case("protocol 1", OK, FAILED),),
    ),
    Row(
        key="sampled out",
        situation="sampled out",
        publish="context still propagates",
        runs="none recorded",
        sentry="events still sent, with the trace id",
        cases=(case("sampled out", shape(0, (), 1)),),
    ),
    Row(
        key="concurrent",
        situation="100 concurrent runs on threads, gevent, eventlet",
        publish="no span, tag, breadcrumb or log id of one run shows up in another",
        runs="",
        sentry="",
        cases=(case("concurrent", OK, FAILED, only=CROWDED),),
    ),
    Row(
        key="leaves",
        situation="`sys.exit()` in a task",
        publish="ok",
        runs="ERROR, outcome lost",
        sentry="1",
        cases=(case("leaves", LOST, also=(OF_THE_WORKER,)),),
    ),
    Row(
        key="result",
        situation="a result that can't be stored",
        publish="ok",
        runs="ERROR",
        sentry="1",
        cases=(case("result", FAILED),),
    ),
    Row(
        key="batches",
        situation="whatever sends `task_prerun` and `task_postrun` itself (batches)",
        publish="ok",
        runs="one run that ends, linked to the publishes of its messages",
        sentry="as above",
        cases=(
            case(
                "batches",
                shape(0, "succeeded", 0),
                shape(0, "ERROR failed", 1),
                also=(NEVER_RAN, OK),
            ),
        ),
    ),
)
CASES: Final = {(row.key, one.name): one for row in ROWS for one in row.cases}


def case_of(key: str, name: str | None = None) -> tuple[str, str]:
    """Give a case's row and name as a mark's arguments tell them; raises `KeyError`."""
    row = {row.key: row for row in ROWS}.get(key)
    if row is None:
        raise KeyError(f"no row {key!r}; there are {[row.key for row in ROWS]}")
    found = (key, name or row.cases[0].name)
    if found not in CASES:
        raise KeyError(f"the row {key!r} has no case {name!r}")
    return found
