"""A backend that goes away, comes back on its port, takes its time, or refuses."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from taskobs.testing.receiver import Receiver
from tests.live.services import free_port

if TYPE_CHECKING:
    from typing_extensions import Self

    from taskobs.testing.wire import ReceivedEvent, ReceivedSpan


PATIENCE = {"/v1/traces": 10.0, "/api/": 2.0}
"""Seconds that a sender may take to ask again: there are always spans, but not always events."""


def _refused(receiver: Receiver, already: int, path: str) -> bool:
    return any(
        request.status != HTTPStatus.OK and request.path.startswith(path)
        for request in receiver.requests[already:]
    )


class Backend:
    """A receiver that can go away and come back on its port, and keeps what all of them got."""

    def __init__(self) -> None:
        self._port = free_port()
        self._spans: list[ReceivedSpan] = []
        self._events: list[ReceivedEvent] = []
        self._receiver: Receiver | None = None
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.dsn = f"http://demo@127.0.0.1:{self._port}/1"
        self.come_back()

    def come_back(self) -> None:
        """Listen again."""
        if self._receiver is None:
            self._receiver = Receiver(port=self._port)

    def go_away(self) -> None:
        """Close the port; what was taken has been answered."""
        if self._receiver is not None:
            self.refuse()
            self._receiver.close()
            self._spans += self._receiver.spans
            self._events += self._receiver.events
            self._receiver = None

    def answer_late(self, seconds: float) -> None:
        """Take that long for each answer, from now on."""
        if self._receiver is not None:
            self._receiver.behave(delay=seconds)

    def refuse(self) -> None:
        """Take nothing from now on; what was taken before this returns has been answered."""
        if self._receiver is not None:
            already = len(self._receiver.requests)
            self._receiver.behave(status=503)
            # Those that began before, slow ones too.
            assert self._receiver.wait_for(lambda receiver: not receiver.busy, 60)
            for path, patience in PATIENCE.items():  # who asks again has seen the answer before
                self._receiver.wait_for(partial(_refused, already=already, path=path), patience)

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans that ever arrived."""
        return [*self._spans, *(self._receiver.spans if self._receiver else ())]

    @property
    def events(self) -> list[ReceivedEvent]:
        """All events that ever arrived."""
        return [*self._events, *(self._receiver.events if self._receiver else ())]

    def __enter__(self) -> Self:
        """Give the backend, which is there already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Go away for good."""
        if self._receiver is not None:
            self._receiver.close()
