"""Holds events of exceptions that a run captures itself until it is known if the run fails by them.

``log.exception(...); raise`` makes an event before anybody can know that the run fails by that
exception. The event is held while the exception lives. If the run fails by it, the event is sent
as the run's failure. If the exception is handled, which ends its life with its ``except`` block, or
the run ends in another way, the event is sent as it is.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from itertools import count
from typing import Final

from sentry_sdk.envelope import Envelope, PayloadRef

from taskobs.internal.exceptions import weak as weak_exceptions
from taskobs.observers.sentry import redact

Send = Callable[[Envelope], object]
Change = Callable[[dict[str, object]], object]

_MOST_EXPECTED: Final = 100
_numbers: Final = count()
_expected: Final[dict[str, _HeldEvent]] = {}
"""By the id of an event that has been made and is on its way to the transport."""


def _no_change(_: dict[str, object]) -> None: ...


class HeldEvents:
    """The held events of one run.

    Thread-safe without a lock, as finalizers may run at any line: each event is taken out of its
    dict once, and whoever takes it sends it.
    """

    def __init__(self) -> None:
        self._held: dict[int, _HeldEvent] = {}
        self._closed = False

    def expect(self, event_id: str, exception: BaseException) -> None:
        """Hold the event with this id when it reaches the transport."""
        self._release_handled()
        if self._closed:
            return
        _expected[event_id] = _HeldEvent(self, exception)
        _drop_from_locals(exception)
        if len(_expected) > _MOST_EXPECTED:  # events that were dropped before the transport
            _expected.pop(next(iter(_expected)), None)

    def has(self, exception: BaseException) -> bool:
        """Tell whether an event of this exception is held."""
        return any(held.is_of(exception) for held in list(self._held.values()))

    def drop(self, exception: BaseException) -> None:
        """Drop the events of an exception."""
        for number, held in list(self._held.items()):
            if held.is_of(exception):
                self._held.pop(number, None)

    def send_as_failure(
        self, exception: BaseException, tags: Mapping[str, object], change: Change = _no_change
    ) -> str | None:
        """Send the event of an exception with these tags; return its id, or None without one.

        ``change`` is called with the event before.
        """
        self._release_handled()
        for number, held in list(self._held.items()):
            if held.is_of(exception) and self._held.pop(number, None) is not None:
                held.send(tags, change)
                return held.event_id
        return None

    def _release_handled(self) -> None:
        for number, held in list(self._held.items()):
            if held.handled:
                self.release(number)

    def close(self) -> None:
        """Send what is held, and hold no more: the run has ended."""
        self._closed = True
        for number in list(self._held):
            self.release(number)

    def add(self, held: _HeldEvent) -> None:
        """Hold an event."""
        held.number = next(_numbers)
        self._held[held.number] = held
        if self._closed or held.handled:  # between the first look at them and here
            self.release(held.number)

    def release(self, number: int) -> None:
        """Send an event as it is."""
        held = self._held.pop(number, None)
        if held is not None:
            held.send({})


class _HeldEvent:
    """One event, and the life of its exception, to which there is no strong reference."""

    __slots__ = (
        *("_envelope", "_id", "_held_by", "_reference", "_send", "_soon", "_traceback"),
        *("event_id", "handled", "number"),
    )

    _envelope: Envelope
    _send: Send

    def __init__(self, held_by: HeldEvents, exception: BaseException) -> None:
        self._held_by = held_by
        self._id, self._traceback = id(exception), id(exception.__traceback__)
        self._soon = False
        self.event_id = ""
        self.handled = False
        self.number = -1
        self._reference = weak_exceptions.reference(exception, self._exception_died)

    def hold(self, envelope: Envelope, send: Send, *, soon: bool) -> None:
        self._envelope, self._send, self._soon = envelope, send, soon
        self.event_id = str(envelope.headers.get("event_id"))
        self._held_by.add(self)

    def is_of(self, exception: BaseException) -> bool:
        """Tell whether it is this exception, or the copy that Celery's hooks are given.

        Celery copies what can't be pickled, and gives the copy the traceback of the original.
        """
        if self.handled:
            return False
        found = exception.__traceback__
        return self._id == id(exception) or (found is not None and self._traceback == id(found))

    def send(self, tags: Mapping[str, object], change: Change = _no_change) -> None:
        if tags:
            for item in self._envelope.items:
                event = item.payload.json
                if item.type == "event" and event is not None:
                    redact.set_tags(event, tags)
                    change(event)
                    item.payload = PayloadRef(json=event)  # the bytes of the old one may be made
        self._send(self._envelope)

    def _exception_died(self, _: object) -> None:
        self.handled = True
        if self._soon and self.number >= 0:
            self._held_by.release(self.number)


def hold(envelope: Envelope, send: Send, *, soon: bool) -> bool:
    """Hold an envelope if a run expects it, and tell so; ``send`` sends it later.

    ``soon`` says that ``send`` may be called from a finalizer: the event is sent as soon as its
    exception is handled. Otherwise it waits for the run's next event, or its end.
    """
    held = _expected.pop(str(envelope.headers.get("event_id")), None)
    if held is None or held.handled:
        return False
    held.hold(envelope, send, soon=soon)
    return True


def _drop_from_locals(exception: BaseException) -> None:
    """Let go of an exception that the frames of its traceback keep after its ``except`` block.

    Up to Python 3.12 ``frame.f_locals``, which Sentry reads for each event, is a dict that stays
    with the frame, as the variables were then, until it is read again.
    """
    if sys.version_info >= (3, 13):
        return
    traceback = exception.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # a function's: a copy of its variables
            values = frame.f_locals
            for name in [name for name, value in values.items() if value is exception]:
                values.pop(name, None)
        traceback = traceback.tb_next
