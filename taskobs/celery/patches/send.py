"""The patch around publishing: each publish of each app in the process is one ``with`` block.

Celery's two publish signals can't report a failed publish: the second one isn't sent then. So
``Celery.send_task`` itself is wrapped. ``delay``, ``apply_async``, canvas, retries and beat all
call it, and it includes the wait for a broker connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from celery import Celery, canvas

from taskobs.internal.wrapping import Patches

Publishing = Callable[[Any, str, Mapping[str, Any]], AbstractContextManager[object]]
Canvas = Callable[[str, Mapping[str, Any]], AbstractContextManager[object]]


class SendPatch:
    """Wraps the methods that publish, from ``install`` to ``remove``."""

    def __init__(self, publishing: Publishing, canvas: Canvas) -> None:
        self._publishing = publishing
        self._canvas = canvas
        self._wrappers = Patches()

    def install(self) -> None:
        """Wrap ``Celery.send_task``, and ``apply_async`` of group and chord."""
        self._wrappers.wrap(Celery, "send_task", self._send_task)
        self._wrappers.wrap(canvas.group, "apply_async", self._send_canvas)
        self._wrappers.wrap(canvas.chord, "apply_async", self._send_canvas)

    def remove(self) -> None:
        """Unwrap them."""
        self._wrappers.remove()

    def _send_task(
        self, send: Callable[..., Any], app: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        name = args[0] if args else kwargs.get("name")
        with self._publishing(app, str(name), kwargs):
            return send(*args, **kwargs)

    def _send_canvas(
        self,
        send: Callable[..., Any],
        signature: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        with self._canvas(signature.task, kwargs):
            return send(*args, **kwargs)
