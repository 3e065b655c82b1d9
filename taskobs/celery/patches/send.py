"""The patch around publishing: each publish of each app in the process is one ``with`` block.

Celery's two publish signals can't report a failed publish: the second one isn't sent then. So
``Celery.send_task`` itself is wrapped. ``delay``, ``apply_async``, canvas, retries and beat all
call it, and it includes the wait for a broker connection. Which producer sends, and so over which
connection, is known when it is taken from its pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol

from celery import Celery, canvas

from taskobs.internal.wrapping import Patches

Publishing = Callable[[Any, str, Mapping[str, Any]], AbstractContextManager[object]]
Canvas = Callable[[str, Mapping[str, Any]], AbstractContextManager[object]]


class Sender(Protocol):
    """A publish that is under way."""

    producer: Any
    """The producer of kombu's that sends its message, or what else has its ``connection``."""


SenderOf = Callable[[], Sender | None]


class _Acquired:
    """A producer while it is taken from its pool; a publish is told which."""

    __slots__ = ("_acquired", "_sender")

    def __init__(self, acquired: AbstractContextManager[Any], sender: Sender) -> None:
        self._acquired = acquired
        self._sender = sender

    def __enter__(self) -> Any:
        producer = self._sender.producer = self._acquired.__enter__()
        return producer

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._acquired.__exit__(kind, error, traceback)


class SendPatch:
    """Wraps the methods that publish, from ``install`` to ``remove``."""

    def __init__(self, publishing: Publishing, canvas: Canvas, sender: SenderOf) -> None:
        self._publishing = publishing
        self._canvas = canvas
        self._sender = sender
        self._wrappers = Patches()

    def install(self) -> None:
        """Wrap ``Celery.send_task``, and ``apply_async`` of group and chord."""
        self._wrappers.wrap(Celery, "send_task", self._send_task)
        self._wrappers.wrap(canvas.group, "apply_async", self._send_canvas)
        self._wrappers.wrap(canvas.chord, "apply_async", self._send_canvas)

    def watch_producers(self) -> None:
        """Tell each publish its producer; only for apps that have more than one broker."""
        self._wrappers.wrap(Celery, "producer_or_acquire", self._acquire)

    def remove(self) -> None:
        """Unwrap them."""
        self._wrappers.remove()

    def _send_task(
        self, send: Callable[..., Any], app: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        name = args[0] if args else kwargs.get("name")
        with self._publishing(app, str(name), kwargs):
            return send(*args, **kwargs)

    def _acquire(
        self, acquire: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        acquired, sender = acquire(*args, **kwargs), self._sender()
        return acquired if sender is None else _Acquired(acquired, sender)

    def _send_canvas(
        self,
        send: Callable[..., Any],
        signature: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        with self._canvas(signature.task, kwargs):
            return send(*args, **kwargs)
