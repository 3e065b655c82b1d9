"""A backend that goes away and comes back on its port, is slow, or refuses."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from taskobs.testing.receiver import Receiver
from tests.live.services import free_port

if TYPE_CHECKING:
    from typing_extensions import Self

    from taskobs.testing.wire import ReceivedEvent, ReceivedItem, ReceivedSpan

TRACES = "/v1/traces"
SENTRY = "/api/"
METRICS = "/v1/metrics"
ASKS_AGAIN = {TRACES: 10.0, SENTRY: 4.0}
"""Seconds that a sender may take to ask again: there are always spans, but not always events."""


class FaultyBackend:
    """A receiver with faults, which keeps what arrived over all of them."""

    def __init__(self) -> None:
        """Listen on a port that stays the same."""
        self._port = free_port()
        self._spans: list[ReceivedSpan] = []
        self._events: list[ReceivedEvent] = []
        self._items: list[ReceivedItem] = []
        self._metrics: list[bytes] = []
        self._receiver: Receiver | None = None
        self._refusing = False
        self.delay = 0.0
        """Seconds that each answer takes."""
        self.sentry_delay = 0.0
        """The same, for envelopes alone."""
        self.limit: int | None = None
        """Bytes of the longest body that is taken."""
        self.retry_after: int | None = None
        """Seconds of ``Retry-After``: everything is answered with 429, unless it is None."""
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.dsn = f"http://demo@127.0.0.1:{self._port}/1"
        self.come_back()

    def come_back(self) -> None:
        """Listen again."""
        self._refusing = False
        if self._receiver is None:
            self._receiver = Receiver(port=self._port)
        self.apply()

    def go_away(self) -> None:
        """Close the port; what was taken has been answered."""
        self.refuse()
        if self._receiver is not None:
            self._receiver.close()
            self._keep(self._receiver)
            self._receiver = None

    def refuse(self) -> None:
        """Take nothing from now on; what was taken before this returns has been answered."""
        self._refusing = True
        receiver = self._receiver
        if receiver is None:
            return
        already = len(receiver.requests)
        self.apply()
        # Those that began before, slow ones too.
        assert receiver.wait_for(lambda receiver: not receiver.busy, 60)
        for path, timeout in ASKS_AGAIN.items():  # who asks again has seen the answer before
            # Whoever was told to wait doesn't ask again soon. A sender that has not asked since
            # its last success does, and may not have seen that answer yet.
            since = already if self.retry_after is None else _after_success(receiver, path)
            receiver.wait_for(partial(_refused, already=since, path=path), timeout)

    def accept(self) -> None:
        """Take what comes again, as it did before it refused."""
        self._refusing = False
        self.apply()

    def apply(self) -> None:
        """Answer as the attributes say, from now on."""
        if self._receiver is None:
            return
        for path, more in ((TRACES, 0.0), (SENTRY, self.sentry_delay)):
            if self._refusing:
                self._receiver.behave(path, status=HTTPStatus.SERVICE_UNAVAILABLE)
                continue
            busy = self.retry_after is not None
            self._receiver.behave(
                path,
                delay=self.delay + more,
                status=HTTPStatus.TOO_MANY_REQUESTS if busy else HTTPStatus.OK,
                limit=self.limit,
                retry_after=self.retry_after,
            )

    @property
    def statuses(self) -> list[int]:
        """How it has answered since it came back last."""
        return [request.status for request in self._receiver.requests] if self._receiver else []

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans that ever arrived."""
        return [*self._spans, *(self._receiver.spans if self._receiver else ())]

    @property
    def events(self) -> list[ReceivedEvent]:
        """All events that ever arrived."""
        return [*self._events, *(self._receiver.events if self._receiver else ())]

    @property
    def items(self) -> list[ReceivedItem]:
        """All other items of envelopes that ever arrived."""
        return [*self._items, *(self._receiver.items if self._receiver else ())]

    @property
    def metrics(self) -> list[bytes]:
        """The bodies of all exports of metrics that ever arrived, oldest first."""
        return [*self._metrics, *(_metrics(self._receiver) if self._receiver else ())]

    def _keep(self, receiver: Receiver) -> None:
        self._spans += receiver.spans
        self._events += receiver.events
        self._items += receiver.items
        self._metrics += _metrics(receiver)

    def __enter__(self) -> Self:
        """Give the backend, which is there already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Go away for good."""
        if self._receiver is not None:
            self._receiver.close()


def _refused(receiver: Receiver, already: int, path: str) -> bool:
    return any(
        request.status != HTTPStatus.OK and request.path.startswith(path)
        for request in receiver.requests[already:]
    )


def _after_success(receiver: Receiver, path: str) -> int:
    """Return how many requests there were when the last one for a path was accepted."""
    accepted = [
        number
        for number, request in enumerate(receiver.requests, 1)
        if request.status == HTTPStatus.OK and request.path.startswith(path)
    ]
    return accepted[-1] if accepted else 0


def _metrics(receiver: Receiver) -> list[bytes]:
    return [request.body for request in receiver.requests if request.path == METRICS]
