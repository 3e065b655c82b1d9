"""Spans that cost less than the SDK's, for when the relay is their only receiver.

The SDK makes a lock, two lists and a bounded dictionary for each span, checks each attribute and
copies the span at its end. A ``FastSpan`` is a subclass of the SDK's ``Span`` that defers this: it
keeps its values in the row that is sent to the relay, and makes the SDK's fields when one of them
is read. From then on the SDK's own methods do everything.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SpanLimits, SpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from taskobs.model.attributes import Parts, whole
from taskobs.protocol.span_encoder import (
    ATTRIBUTES,
    END_NS,
    EVENTS,
    KIND,
    NAME,
    START_NS,
    STATUS,
    STATUS_DESCRIPTION,
)

if TYPE_CHECKING:
    from taskobs.otel.fast_tracer import FastSpanTracer

Attributes = dict[str, AttributeValue]
PackedStart: TypeAlias = "tuple[bytes, str, Attributes | Parts, int]"
"""A span as it was packed when it started, and what tells whether that still holds: its name, its
attributes, which were given more since or replaced, and how many of its own it had."""

_PLAIN: Final = frozenset({str, bool, int, float})
_STR: Final = frozenset({str})
_QUIET: Final = SpanProcessor()

# What a span's ``__dict__`` holds of ours, beside the SDK's fields.
_ENDED: Final = "fast_ended"
"""When the span ended, in a list of one element."""
_ASKED: Final = "fast_asked"
_MADE: Final = "fast_made"
_COMPLETE: Final = "fast_complete"


class FastSpan(Span):
    """A span of the SDK whose fields are made when one of them is read.

    The SDK keeps a span's fields in its ``__dict__``, and so do libraries that add attributes to
    the object. Ours are in slots. So an empty ``__dict__`` means that only the row is in use; the
    methods here handle this state, and call the SDK's methods in any other.

    Threads may share a span. A method that writes into the row checks ``__dict__`` again
    afterwards: if it is no longer empty, another thread may have made the SDK's fields without
    the new value, so the method writes it there too. No lock is taken: the signal of a soft time
    limit may raise between any two lines, and would leave it locked.
    """

    __slots__ = (
        *("fast_context", "fast_flags", "fast_key", "fast_parent", "fast_row", "fast_start"),
        *("fast_ticks", "fast_tracer"),
    )

    fast_context: SpanContext
    fast_parent: SpanContext | None
    fast_flags: tuple[bool, bool]
    """``record_exception`` and ``set_status_on_exception``."""
    fast_key: bytes
    fast_row: list[Any]
    """What the span is packed as; see ``protocol.span_encoder``."""
    fast_start: PackedStart | None
    """What its sink was told of its start, for what it is told of its end."""
    fast_ticks: int
    """The monotonic clock at the start, in nanoseconds; 0 if the caller gave the start's time."""
    fast_tracer: FastSpanTracer

    # Read from the row.

    def get_span_context(self) -> SpanContext:
        """Return the span's context."""
        return self.fast_context

    @property
    def context(self) -> SpanContext:
        """The span's context."""
        return self.fast_context

    @property
    def resource(self) -> Resource:
        """The resource of this process; in a forked child, the SDK may replace it."""
        return self.fast_tracer.fast_provider.resource

    def is_recording(self) -> bool:
        """Tell whether the span is open."""
        held = self.__dict__
        return not held or (_ENDED not in held and super().is_recording())

    # Written into the row.

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set an attribute."""
        attributes: Attributes = self.fast_row[ATTRIBUTES]
        if type(attributes) is not dict:
            attributes = _include_shared(self.fast_row)
        if (
            type(value) in _PLAIN
            and type(key) is str
            and key
            and key not in attributes
            and len(attributes) < self.fast_tracer.fast_room
            and not self.__dict__
        ):
            attributes[key] = value
            if not self.__dict__:
                return
        super().set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set several attributes."""
        tracer = self.fast_tracer
        if not self.__dict__:
            present = _include_shared(self.fast_row)
            cleaned = clean(attributes, tracer.fast_limits)
            if (
                cleaned is not None
                and len(cleaned) + len(present) <= tracer.fast_room
                # The SDK drops the oldest keys above its limit, and a key that is set again
                # becomes the newest.
                and present.keys().isdisjoint(cleaned)
            ):
                present.update(cleaned)
                if not self.__dict__:
                    return
        super().set_attributes(attributes)

    def try_set_attributes(self, attributes: Attributes) -> bool:
        """Set attributes that need no check; False if ``set_attributes`` has to do it."""
        present: Attributes = self.fast_row[ATTRIBUTES]
        room = self.fast_tracer.fast_room
        if type(present) is not dict:
            shared, own = cast("Parts", present)
            if shared.attributes.keys().isdisjoint(attributes):
                present, room = own, room - len(shared.attributes)
            else:
                present = _include_shared(self.fast_row)
        count = len(present) + len(attributes)
        if self.__dict__ or count > room:
            return False
        present.update(attributes)
        if len(present) != count:  # some have a new value, so what was packed no longer holds
            self.fast_start = None
        return not self.__dict__

    def add_event(
        self,
        name: str,
        attributes: Mapping[str, AttributeValue] | None = None,
        timestamp: int | None = None,
    ) -> None:
        """Add an event."""
        events, tracer = self.fast_row[EVENTS], self.fast_tracer
        if (
            type(name) is str
            and len(events) < tracer.fast_event_room
            and (not attributes or _is_plain(attributes, tracer.fast_event_attribute_room))
            and not self.__dict__
        ):
            now = self._now() if timestamp is None else timestamp
            events.append([name, now, dict(attributes or ()), 0])
            if self.__dict__:
                self._hand_over_events()
            return
        super().add_event(name, attributes, timestamp)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status, unless it is OK already; UNSET changes nothing."""
        if not self.__dict__ and (type(status) is StatusCode or description is None):
            code = status if isinstance(status, StatusCode) else status.status_code
            if code is StatusCode.UNSET or self.fast_row[STATUS] == _OK:
                return
            new = Status(status, description) if isinstance(status, StatusCode) else status
            # In one step, so that no thread sees half of it.
            self.fast_row[STATUS : STATUS_DESCRIPTION + 1] = new.status_code.value, new.description
            if not self.__dict__:
                return
        super().set_status(status, description)

    def update_name(self, name: str) -> None:
        """Give the span another name."""
        if type(name) is str and not self.__dict__:
            self.fast_row[NAME] = name
            if not self.__dict__:
                return
        super().update_name(name)

    # The end.

    def end(self, end_time: int | None = None) -> None:
        """End the span; if the row holds all of it, the row is sent."""
        held: Any = self.__dict__
        span_sink = self.fast_tracer.fast_processors.span_sink
        if end_time is None:  # as in ``_now``, without the call: each run ends a span
            began: int = self.fast_row[START_NS]
            ticks = self.fast_ticks
            end_time = began + time.monotonic_ns() - ticks if ticks else time.time_ns()
        if held or span_sink is None:
            self._end_as_sdk(end_time)
            return
        mine = [end_time]
        try:
            # If several threads end the span, only one finds its own list.
            if held.setdefault(_ENDED, mine) is not mine:
                self._end_as_sdk(end_time)
                return
            self.fast_row[END_NS] = mine[0]
            span_sink.fast_span_ended(self)
        except BaseException:
            # A soft time limit's signal may have interrupted the send. So it is repeated: the
            # relay recognises a second END of a span, but can't know of a missing one.
            if _ENDED in held and held[_ENDED] is mine:
                self.fast_row[END_NS] = mine[0]
                span_sink.fast_span_ended(self, again=True)
            raise

    def _now(self) -> int:
        """Return the time: the start plus what has passed since, though the clock may be set."""
        ticks = self.fast_ticks
        return self.fast_row[START_NS] + time.monotonic_ns() - ticks if ticks else time.time_ns()

    def _end_as_sdk(self, end_time: int) -> None:
        if _ENDED in self.__dict__:
            self.as_sdk_span().end()  # which warns that the span has ended already
            return
        try:
            super().end(end_time)
        except AttributeError:
            # Another library has put a dict in the place of the span's attributes, which the SDK
            # can't make immutable (since 1.43). It would lose the span.
            self.fast_tracer.fast_processors.on_end(self)

    # The SDK's fields: ``SdkField`` makes them when the first is read.

    def complete(self, attributes: Mapping[str, AttributeValue] | None = None) -> None:
        """Make the SDK's fields, unless they exist; ``attributes`` are added unchecked."""
        held: Any = self.__dict__
        if _COMPLETE in held:
            return
        held[_ASKED] = True  # before the row is read: see the class
        # Of several threads, and of calls that an exception has interrupted, the first one's is
        # used. A field that is there already stays: it was changed since, or put in by others.
        made: Span = held.setdefault(_MADE, self.as_sdk_span(attributes))
        for name, value in vars(made).items():
            held.setdefault(name, value)
        held[_COMPLETE] = True
        self._hand_over_events()

    def _hand_over_events(self) -> None:
        """Move the row's events to the SDK's list, each once, also if threads do it together."""
        events = self.fast_row[EVENTS]
        while events and _ENDED not in self.__dict__:
            try:
                name, timestamp, attributes, _ = events.pop(0)
            except IndexError:  # another thread was faster
                return
            super().add_event(name, attributes, timestamp)

    def as_sdk_span(self, attributes: Mapping[str, AttributeValue] | None = None) -> Span:
        """Return a span of the SDK with the row's values; no processor is called for it."""
        row, tracer, ended = self.fast_row, self.fast_tracer, self.__dict__.get(_ENDED)
        span = _SdkSpan(
            name=row[NAME],
            context=self.fast_context,
            parent=self.fast_parent,
            sampler=tracer.sampler,
            resource=self.resource,
            attributes=dict(whole(row[ATTRIBUTES])) if attributes is None else attributes,
            kind=SpanKind(row[KIND]),
            span_processor=cast("Any", _QUIET if ended else tracer.fast_processors.after_start),
            instrumentation_info=tracer.instrumentation_info,
            record_exception=self.fast_flags[0],
            set_status_on_exception=self.fast_flags[1],
            limits=tracer.fast_limits,
            instrumentation_scope=tracer.fast_scope,
        )
        span.start(row[START_NS])
        if row[STATUS]:
            span.set_status(StatusCode(row[STATUS]), row[STATUS_DESCRIPTION])
        if ended:
            for name, timestamp, given, _ in tuple(row[EVENTS]):
                span.add_event(name, given, timestamp)
            span.end(ended[0])
        return span


def _include_shared(row: list[Any]) -> Attributes:
    """Have a row hold all attributes as the span's own, and return them.

    The dict stays the same, so what other threads add to it meanwhile is not lost; and if a
    signal's exception ends this, those that are already there are there twice, and the same.
    """
    found: Attributes | Parts = row[ATTRIBUTES]
    if isinstance(found, dict):
        return found
    shared, own = found
    for key, value in shared.attributes.items():
        own.setdefault(key, value)
    row[ATTRIBUTES] = own
    return own


class _SdkSpan(Span):
    """A span of the SDK, made without a tracer."""


_OK: Final = StatusCode.OK.value


def clean(attributes: Mapping[str, AttributeValue], limits: SpanLimits) -> Attributes | None:
    """Return attributes as the SDK keeps them; None if it would cut or drop some."""
    most = limits.max_span_attributes
    if limits.max_span_attribute_length is not None or (
        most is not None and len(attributes) > most
    ):
        return None
    if _is_plain(attributes, sys.maxsize):
        return dict(attributes)
    kept = BoundedAttributes(most, attributes)
    return None if kept.dropped else dict(kept.copy())


def _is_plain(attributes: Mapping[str, AttributeValue], most: int) -> bool:
    """Tell whether the SDK keeps attributes as they are."""
    kind: object = type(attributes)
    return (
        kind is dict
        and len(attributes) <= most
        and _PLAIN.issuperset(map(type, attributes.values()))
        and _STR.issuperset(map(type, attributes))
        and "" not in attributes
    )
