"""A message that no task of this worker is for: of what its sender chose, only what is sane."""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from celery.app.task import Context

from taskobs import semconv
from taskobs.celery._types import Message
from taskobs.celery.adapter.names import bounded_name

_NAME_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class UntrustedTask:
    """Stands for a task that this worker does not have: a name, from whoever sent it."""

    name: str
    app: Any
    throws: tuple[type[BaseException], ...] = ()
    backend: Any = None


def untrusted_task(consumer: Any, message: Message) -> tuple[UntrustedTask, Context]:
    """Return what stands for the task and the request of a message that became neither."""
    headers = message.headers if isinstance(getattr(message, "headers", None), dict) else {}
    body = _decoded(message) if "task" not in headers else {}
    fields = headers if "task" in headers else body
    context = Context(
        {key: value for key, value in headers.items() if isinstance(key, str)}
        | {semconv.HEADER_RUN_SPAN: ""},
        id=_short(fields.get("id")),
        delivery_info=getattr(message, "delivery_info", None) or {},
        hostname=getattr(consumer, "hostname", None),
    )
    return UntrustedTask(bounded_name(fields.get("task"), "unknown"), consumer.app), context


def _decoded(message: Any) -> dict[str, Any]:
    """Return the body of a message in protocol 1, which has the task's name."""
    try:
        payload = message.payload
    except Exception:  # noqa: BLE001  # it may be anything
        return {}
    return payload if isinstance(payload, dict) else {}


def _short(value: Any) -> str:
    return str(value)[:_NAME_CHARS] if isinstance(value, (str, int)) else ""
