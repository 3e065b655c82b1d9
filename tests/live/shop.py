"""One worker and one producer of the shop, shared by the tests of a module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from taskobs import semconv
from tests.live.celery_process import LiveApp
from tests.live.process import LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedEvent, ReceivedSpan
    from tests.live.celery_process import Broker, Producer, Worker

QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
"""Spans leave each process after 0.1 s: for tests that don't look at how processes end."""


def tags(event: ReceivedEvent) -> Mapping[str, str]:
    """Give the tags of a Sentry event."""
    return cast("Mapping[str, str]", event.data.get("tags") or {})


def trace_of(event: ReceivedEvent) -> tuple[str, str]:
    """Give the trace id and the span id that a Sentry event carries."""
    contexts = cast("Mapping[str, Mapping[str, str]]", event.data.get("contexts") or {})
    return contexts["trace"]["trace_id"], contexts["trace"]["span_id"]


@dataclass(frozen=True)
class Shop:
    """A running shop, and what a test asks about one of its tasks."""

    live: LiveApp
    broker: Broker
    receiver: Receiver
    worker: Worker
    producer: Producer

    def run(self, source: str, *, timeout: float = LIMIT) -> Any:
        """Run Python in the producer, with the shop as ``app``; gives its ``result``."""
        return self.producer.run(source, timeout=timeout)

    def call(self, publish: str) -> str:
        """Publish, such as ``"fail.delay()"``, wait for the end of the task, and give its id."""
        return str(
            self.run(
                f"sent = app.{publish}\nsent.get(timeout=90, propagate=False)\nresult = sent.id"
            )
        )

    def spans(self, task_id: str, number: int, *, timeout: float = LIMIT) -> list[ReceivedSpan]:
        """Wait for ``number`` spans (publish and run) of a task and give all, oldest first."""
        return self._spans(
            lambda span: span.attributes.get(semconv.MESSAGING_MESSAGE_ID) == task_id,
            number,
            timeout,
        )

    def trace(self, trace_id: str, number: int, *, timeout: float = LIMIT) -> list[ReceivedSpan]:
        """Wait for ``number`` spans of a trace and give all, oldest first."""
        return self._spans(lambda span: span.trace_id == trace_id, number, timeout)

    def events(self, task_id: str, number: int, *, timeout: float = LIMIT) -> list[ReceivedEvent]:
        """Wait for ``number`` Sentry events that are tagged with a task, and give all."""

        def tagged(events: Iterable[ReceivedEvent]) -> list[ReceivedEvent]:
            return [event for event in events if tags(event).get(semconv.TAG_TASK_ID) == task_id]

        arrived = self.receiver.wait_for(lambda r: len(tagged(r.events)) >= number, timeout)
        assert arrived, f"{number} events wanted, got {self.receiver.events}"
        return tagged(self.receiver.events)

    def _spans(
        self, wanted: Callable[[ReceivedSpan], bool], number: int, timeout: float
    ) -> list[ReceivedSpan]:
        arrived = self.receiver.wait_for(
            lambda receiver: sum(map(wanted, receiver.spans)) >= number, timeout
        )
        found = sorted(filter(wanted, self.receiver.spans), key=lambda span: span.start_ns)
        assert arrived, f"{number} spans wanted, got {[span.name for span in found]}"
        return found


def open_shop(
    live: LiveApp,
    broker: Broker,
    receiver: Receiver,
    *args: str,
    pool: str = "prefork",
    concurrency: int = 2,
    env: Mapping[str, str] | None = None,
) -> Shop:
    """Start a worker and a producer; ``args`` go to ``celery worker``, ``env`` to both."""
    full = {**QUICK, **(env or {})}
    worker = live.worker(broker, *args, pool=pool, concurrency=concurrency, env=full)
    return Shop(live, broker, receiver, worker, live.producer(broker, env=full))
