"""A shop whose tests say what they expect of each task, and which is held to it in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskobs import semconv
from tests.live.process import LIMIT
from tests.live.shop import Shop, open_shop, tags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedEvent, ReceivedSpan
    from tests.live.celery_process import Broker, LiveApp

WAREHOUSE = "tests.live.apps.warehouse"
"""Tasks that the worker of an audited shop knows, and its producer does not."""


def outcome(span: ReceivedSpan) -> object:
    """Give the outcome of a run."""
    return span.attributes[semconv.CELERY_OUTCOME]


@dataclass(frozen=True)
class AuditedShop(Shop):
    """Keeps the numbers of spans and events that were asked for, task by task.

    A test can't wait for what does not come; `audit` says in the end whether it came.
    """

    expected_spans: Counter[str] = field(default_factory=Counter[str])
    expected_events: Counter[str] = field(default_factory=Counter[str])

    def spans(self, task_id: str, number: int, *, timeout: float = LIMIT) -> list[ReceivedSpan]:
        """Wait for exactly ``number`` spans (publish and run) of a task; all, oldest first."""
        self.expected_spans[task_id] = number
        return super().spans(task_id, number, timeout=timeout)

    def events(self, task_id: str, number: int, *, timeout: float = LIMIT) -> list[ReceivedEvent]:
        """Wait for exactly ``number`` Sentry events of a task; 0 is left to `audit`."""
        self.expected_events[task_id] = number
        return super().events(task_id, number, timeout=timeout)

    def audit(self) -> None:
        """Stop the producer and the worker warmly, and compare all that came with the claims."""
        assert self.producer.close() == 0
        assert self.worker.stop() == 0
        spans, events = self.receiver.spans, self.receiver.events
        spans_came = Counter(str(s.attributes.get(semconv.MESSAGING_MESSAGE_ID)) for s in spans)
        events_came = Counter(str(tags(event).get(semconv.TAG_TASK_ID)) for event in events)
        assert spans_came == self.expected_spans, [span.name for span in spans]
        assert events_came == +self.expected_events, events


def open_audited(
    live: LiveApp,
    broker: Broker,
    receiver: Receiver,
    pool: str,
    env: Mapping[str, str] | None = None,
) -> AuditedShop:
    """Start a worker of that pool and a producer."""
    shop = open_shop(live, broker, receiver, "-I", WAREHOUSE, pool=pool, env=env)
    return AuditedShop(**vars(shop))
