"""What this package reads of the objects that Celery and kombu hand out, as protocols.

Celery ships no types, and its objects pass through signals as anything. What comes with a message
is the sender's choice, so it is an ``object`` here until it has been checked. Nothing here is ever
written to, so all is read-only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Exchange(Protocol):
    """A kombu exchange."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str: ...


class Queue(Protocol):
    """A kombu queue."""

    @property
    def name(self) -> str: ...

    @property
    def alias(self) -> str | None: ...

    @property
    def exchange(self) -> Exchange: ...

    @property
    def routing_key(self) -> str: ...


class App(Protocol):
    """A Celery app."""

    @property
    def main(self) -> str | None: ...

    @property
    def amqp(self) -> Any: ...

    def connection_for_read(self) -> Any: ...

    def connection_for_write(self) -> Any: ...


class Context(Protocol):
    """``task.request``: the fields of the message, the message's flat headers among them."""

    @property
    def id(self) -> Any: ...

    @property
    def root_id(self) -> Any: ...

    @property
    def parent_id(self) -> Any: ...

    @property
    def group(self) -> Any: ...

    @property
    def group_index(self) -> Any: ...

    @property
    def chord(self) -> Any: ...

    @property
    def args(self) -> Any: ...

    @property
    def kwargs(self) -> Any: ...

    @property
    def eta(self) -> Any: ...

    @property
    def hostname(self) -> Any: ...

    @property
    def origin(self) -> Any: ...

    @property
    def timelimit(self) -> Any: ...

    @property
    def retries(self) -> object: ...

    @property
    def expires(self) -> object: ...

    @property
    def delivery_info(self) -> Any: ...

    @property
    def headers(self) -> object: ...

    @property
    def correlation_id(self) -> object: ...

    @property
    def reply_to(self) -> object: ...

    @property
    def is_eager(self) -> bool: ...


class Task(Protocol):
    """A task, or the proxy that stands for one."""

    @property
    def name(self) -> str: ...

    @property
    def app(self) -> App: ...

    @property
    def backend(self) -> Any: ...

    @property
    def request(self) -> Context: ...


class Entry(Protocol):
    """An entry of beat's schedule, of whichever scheduler."""

    @property
    def name(self) -> object: ...

    @property
    def schedule(self) -> object: ...


class Message(Protocol):
    """A message as a consumer gets it."""

    @property
    def headers(self) -> Any: ...

    @property
    def properties(self) -> Any: ...

    @property
    def delivery_info(self) -> Any: ...

    @property
    def payload(self) -> Any: ...


class WorkerRequest(Protocol):
    """What a worker makes of each delivery of a task: ``celery.worker.request.Request``."""

    @property
    def time_start(self) -> float | None: ...

    @property
    def worker_pid(self) -> int | None: ...

    @property
    def acknowledged(self) -> bool: ...

    @property
    def request_dict(self) -> dict[str, Any]: ...


Routed = Mapping[str, Any]
"""The keyword arguments of ``before_task_publish``."""
