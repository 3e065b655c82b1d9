"""The span attributes of OpenTelemetry's own Celery instrumentation, kept for its dashboards.

The keys and the odd spellings are those of ``opentelemetry-instrumentation-celery``; one value
differs on purpose: ``celery.hostname`` is the worker's, where stock gives the producer's.
"""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_KINDS: Final = {"direct": "queue", "topic": "topic"}


def of_publish(exchange: str | None, routing_key: str | None, declare: Any) -> Mapping[str, object]:
    """Return what stock sets on the span of a publish; None stands for what it leaves out."""
    return {
        "celery.action": "apply_async",
        "messaging.destination": routing_key,
        "celery.exchange": exchange,
        "messaging.destination_kind": _kind(declare),
    }


def of_run(routing_key: str | None, request: Any) -> Mapping[str, object]:
    """Return what stock sets on the span of a run; None stands for what it leaves out."""
    return {
        "celery.action": "run",
        "messaging.conversation_id": request.correlation_id,
        "celery.delivery_info": str(request.delivery_info) if request.delivery_info else None,
        "messaging.destination": routing_key,
        "celery.reply_to": request.reply_to,
        "celery.serializer": getattr(request, "serializer", None),
        "celery.countdown": getattr(request, "countdown", None),
        "celery.eta": request.eta,
        "celery.expires": request.expires,
        "celery.retries": request.retries or None,
        "celery.timelimit": _limits(request.timelimit),
    }


def _kind(declare: Any) -> str | None:
    for queue in declare or ():
        kind = _KINDS.get(getattr(queue.exchange, "type", ""))
        if kind:
            return kind
    return None


def _limits(limits: Any) -> list[str] | None:
    if not limits or all(limit is None for limit in limits):
        return None
    return ["" if limit is None else str(limit) for limit in limits]
