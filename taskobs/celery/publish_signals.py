"""Makes publishes of what Celery sends, and shows them to observers.

A patch around ``send_task`` opens and closes a publish; ``before_task_publish`` comes in between,
when the message is routed and its headers can still be added to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import SimpleNamespace, TracebackType
from typing import Any, Final

from celery import signals

from taskobs.celery._types import App, Entry
from taskobs.celery.active import ContextStack, current_run
from taskobs.celery.adapter import brokers, publishes
from taskobs.celery.adapter.outcomes import PASSING
from taskobs.celery.adapter.runs import context_of_message
from taskobs.celery.adapter.schedules import schedule_of
from taskobs.celery.observer_calls import ObserverCalls, call_each
from taskobs.celery.patches.beat import BeatPatch
from taskobs.celery.patches.celery_stack import ending_request
from taskobs.celery.patches.own_traffic import BeatTraffic
from taskobs.celery.patches.send import SendPatch
from taskobs.internal.guard import Guard
from taskobs.model import Canvas, ContextValues, Publish, Schedule
from taskobs.observers.context import state as context_state
from taskobs.observers.context import values as context_values

_active_publish: ContextVar[ActivePublish | None] = ContextVar("taskobs_publish", default=None)

_SENDERS: Final = frozenset({"connection", "producer", "publisher"})
"""Options of a publish that say what sends it: maybe to another than the app's first broker."""


class ActivePublish(ContextStack):
    """A publish, or the publishes of a group or chord: one ``with`` block around the send."""

    __slots__ = ("_token", "app", "canvas", "interrupted", "producer", "publish")

    def __init__(self, guard: Guard, app: App | None = None) -> None:
        self._guard, self._open = guard, []  # what the base does, without the call
        self.app = app
        self.publish: Publish | None = None
        self.canvas: Canvas | None = None
        self.producer: Any = None
        self.interrupted: Exception | None = None
        """A time limit that an observer was interrupted by."""

    def __enter__(self) -> None:
        # A group's or chord's own messages are publishes inside this block; it has none itself.
        self._token = _active_publish.set(None if self.publish is None else self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _active_publish.reset(self._token)
        if self.publish is not None:
            self.publish.error = error
            if self.producer is not None:
                with self._guard:  # known now: kombu may have failed over to another broker
                    sent = brokers.sent_over(self.producer, published=error is None)
                    self.publish.broker = sent
        if self.canvas is not None:
            self.canvas.error = error
        self.close()
        if self.interrupted is not None and error is None:
            raise self.interrupted


class PublishSignals:
    """Shows observers each publish of each app in the process, while connected."""

    def __init__(self, guard: Guard, calls: ObserverCalls) -> None:
        self._guard = guard
        self._calls = calls
        self._send_patch = SendPatch(self.publishing, self.canvas, _active_publish.get)
        self._beat_patch = BeatPatch(self._schedule_of)
        self._beat_traffic = BeatTraffic()
        self.receivers: tuple[tuple[Any, Callable[..., None]], ...] = (
            (signals.beat_init, self._beat_starts),
            (signals.before_task_publish, self._publish_routed),
        )

    def install(self) -> None:
        """Wrap the sends of all apps."""
        self._send_patch.install()
        self._beat_traffic.install()

    def beat_runs(self) -> None:
        """Watch the schedule of a beat that may have started before anybody observed."""
        self._beat_starts()

    def remove(self) -> None:
        """Unwrap them."""
        self._send_patch.remove()
        self._beat_patch.remove()
        self._beat_traffic.remove()

    def publishing(self, app: App, task: str, options: Mapping[str, Any]) -> ActivePublish:
        """Return the block around a send."""
        sending = ActivePublish(self._guard, app)
        try:
            publish = publishes.publish_of(app, task, options, current_run())
            publish.schedule = self._beat_patch.take()
            if context_state.in_use:
                publish.context = _context_of(publish)
            sending.publish = publish
            # What sends, if it may not be a connection to the app's first broker.
            if not _SENDERS.isdisjoint(options):
                sending.producer = _producer_of(options)
            if brokers.varies(app):
                self._send_patch.watch_producers()
            sending.open(self._calls.publish, publish)
        except BaseException as error:
            if not self._guard.swallows(error):
                sending.close()
                raise
        return sending

    def _beat_starts(self, **_: Any) -> None:
        self._beat_patch.install()

    def _schedule_of(self, entry: Entry) -> Schedule | None:
        with self._guard:
            return schedule_of(entry)
        return None

    def _publish_routed(self, **message: Any) -> None:
        sending = _active_publish.get()
        publish = None if sending is None else sending.publish
        if sending is None or sending.app is None or publish is None:
            return
        try:
            publishes.complete(publish, sending.app, message)
        except Exception as error:
            if not self._guard.swallows(error):
                raise
        try:
            call_each(self._guard, self._calls.sending, publish)
        except PASSING as error:
            # Celery's dispatcher logs what a receiver raises, and goes on (seen in 5.3 to 5.7). So
            # the task gets it from the publish, when the message is sent.
            sending.interrupted = error

    def canvas(self, kind: str, options: Mapping[str, Any]) -> ActivePublish:
        """Return the block around the sends of a group or chord."""
        sending = ActivePublish(self._guard)
        with self._guard:
            sending.canvas = Canvas(kind, publishes.given_headers(options))
            if context_state.in_use:
                sending.canvas.context = context_values.values_of(current_run())
            sending.open(self._calls.canvas, sending.canvas)
        return sending


def _context_of(publish: Publish) -> ContextValues | None:
    """Return the values that hold here; for the errback of a run that died, those of its message.

    A worker's main process publishes that, and the run is not active there.
    """
    values = context_values.values_of(publish.within)
    request = None if values or publish.within is not None else ending_request()
    return values if request is None else context_of_message(request)


def _producer_of(options: Mapping[str, Any]) -> Any:
    """Return what has the ``connection`` that is given with a publish, if any is."""
    given = options.get("connection")
    if given is not None:
        return SimpleNamespace(connection=given)
    return options.get("producer") or options.get("publisher")
