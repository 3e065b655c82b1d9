"""What the tests of service managers share: work for a worker, and whether all of it was told."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from taskobs import semconv
from tests.live.process import LIMIT, wait_until
from tests.live.shop import tags
from tests.support.relay_status import replies

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskobs.testing.receiver import Receiver

OFF: Final = {"TASKOBS_ENABLED": "0"}
"""For producers, so that the backend hears of the worker alone."""
ONE_CHILD: Final = {"APP_CONFIG": '{"worker_concurrency": 1}'}
"""For workers: Celery reads the result of a task before it gives the next one to the same child.

With more children, a stop may strike one that has ended a task of `WORK`, which is then lost, too.
"""
WORK: Final = """
sent = [app.fail.delay() if n % 4 == 0 else app.child_span.delay("inner") for n in range(12)]
for one in sent: one.get(timeout=90, propagate=False)
result = [one.id for one in sent]
"""
ON_DISK: Final = {"span": 12 + 9, "envelope": 3, "log": 0}
"""What becomes of that: it has to be on disk before a worker and its relay are killed at once."""


def wait_on_disk(worker: int) -> None:
    """Wait until a worker's relay has written all of `WORK` to its spool.

    A failed task's result can be read before its event is made, and Celery's children end with
    their worker: killed at once, one would take the event with it.
    """

    def told() -> list[object]:
        return [one["spooled"] for one in replies(worker)]

    assert wait_until(lambda: told() == [ON_DISK], timeout=LIMIT), told()


def failed(ids: list[str]) -> list[str]:
    """Give those that fail, of the tasks of `WORK`."""
    return ids[::4]


def told(receiver: Receiver, ids: Iterable[str], failures: Iterable[str]) -> bool:
    """Whether the backend has each task's run once, and one event for each failure."""
    runs = [span for span in receiver.spans if span.kind == "consumer"]
    found = Counter(str(run.attributes[semconv.MESSAGING_MESSAGE_ID]) for run in runs)
    events = Counter(tags(event)[semconv.TAG_TASK_ID] for event in receiver.events)
    return (found, events) == (Counter(ids), Counter(failures))
