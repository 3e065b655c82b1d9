"""The record of a publish, and what it has in common with that of a run.

A short command that publishes imports this module alone: the record of a run takes longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from taskobs.model.runs import ChordLinkStore, Run
    from taskobs.model.sources import Schedule

ContextValue = str | int | float | bool
ContextValues = Mapping[str, ContextValue]
"""What ``taskobs.context()`` gives to what follows, by their keys."""


class Broker(NamedTuple):
    """Where an app publishes: never a user name, never a password."""

    system: str = ""
    address: str = ""
    port: int = 0


NOWHERE: Final = Broker()


# No method is generated but `__init__`, and that not where nobody calls it: each takes as long to
# generate as a module to import, and a command that publishes does without them. Records are
# compared by identity.
# They have no slots: a default is an attribute of the class, so a record that is made without
# `__init__` has it too, and only what differs is set.
@dataclass(kw_only=True, init=False, eq=False, repr=False, match_args=False)
class TaskMessage:
    """What a publish and a run have in common: a task, and the message that asks for it."""

    task: str
    name: str = ""
    """The name in spans and events: as ``task``, or that of the inner task of a map."""
    task_id: str = ""
    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    attempt: int = 1
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    eta: str | None = None
    expires: str | None = None
    priority: int | None = None
    broker: Broker = NOWHERE
    stock: Callable[[], dict[str, object]] = dict
    """Returns the attributes that the stock instrumentation would set; it may be added to."""
    context: ContextValues | None = None
    """The values that a publish is made with, or that a run's message carries."""

    def __repr__(self) -> str:
        return f"<taskobs.{type(self).__name__} of {self.task} ({self.task_id or 'no id yet'})>"


@dataclass(kw_only=True, eq=False, repr=False, match_args=False)
class Publish(TaskMessage):
    """One message handed to the broker.

    It is opened with the task's name alone; the rest is known when Celery has routed the
    message (``Observer.sending``). ``error`` is set when the broker refused.
    """

    within: Run | None = None
    """The run that publishes, when a task calls a task."""
    retries: Run | None = None
    """The run whose next attempt this is."""
    schedule: Schedule | None = None
    """Set on what beat publishes for an entry that is due."""
    headers: MutableMapping[str, object] = field(default_factory=dict[str, object])
    """The headers that the caller gives; once the message is routed, its own.

    What an observer writes into those travels.
    """
    header_runs: ChordLinkStore | None = None
    """Set on the callback of a chord."""
    error: BaseException | None = None
    has_span: bool = field(default=False, init=False)
    """Whether the current span is that of the publish, sampled or not."""
    opened: tuple[object, object] | None = field(default=None, init=False)
    """OpenTelemetry's context that was made current for it, and the span in that."""
    traceparent: str | None = field(default=None, init=False)
    """The address of the current span, if the message carries it: what ``traceparent`` says."""
