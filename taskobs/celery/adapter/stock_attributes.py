"""The span attributes of OpenTelemetry's own Celery instrumentation, kept for its dashboards.

Keys, values and odd spellings are those of ``opentelemetry-instrumentation-celery``. What differs
on purpose is listed in docs/recording.md, with the reason; a test compares all of it.
"""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from taskobs.celery.adapter.names import text_of

_DESTINATION_KINDS: Final = {"direct": "queue", "topic": "topic"}
_NO_LIMITS: Final = [None, None]  # as nearly always
_RARE: Final = (
    ("celery.compression", "compression"),
    ("celery.serializer", "serializer"),
    ("celery.countdown", "countdown"),
    ("celery.eta", "eta"),
    ("celery.expires", "expires"),
    ("celery.retries", "retries"),
)


def of_publish(routing_key: str | None, declare: Any) -> Mapping[str, object]:
    """Return what stock sets on the span of a publish."""
    found: dict[str, object] = {"celery.action": "apply_async"}
    if routing_key:
        found["messaging.destination"] = routing_key
    kind = _kind(declare)
    if kind:
        found["messaging.destination_kind"] = kind
    return found


def of_run(routing_key: str | None, request: Any) -> Mapping[str, object]:
    """Return what stock sets on the span of a run."""
    found: dict[str, object] = {"celery.action": "run"}
    if routing_key:
        found["messaging.destination"] = routing_key
    if request.delivery_info is not None:
        try:
            found["celery.delivery_info"] = str(request.delivery_info)
        except Exception:  # noqa: BLE001  # with pickle, a message may have any object
            found["celery.delivery_info"] = type(request.delivery_info).__name__
    if request.correlation_id:
        found["messaging.conversation_id"] = request.correlation_id
    if request.reply_to:
        found["celery.reply_to"] = request.reply_to
    limits = request.timelimit
    has_limits = isinstance(limits, (list, tuple)) and limits != _NO_LIMITS
    if has_limits and any(limit is not None for limit in limits):
        partly = any(limit is None for limit in limits)
        found["celery.timelimit"] = (
            [text_of(limit) or "" for limit in limits] if partly else [*limits]
        )
    for key, name in _RARE:
        value = getattr(request, name, None)
        if value:
            found[key] = value
    return found


def _kind(declare: Any) -> str | None:
    for queue in declare or ():
        kind = _DESTINATION_KINDS.get(getattr(queue.exchange, "type", ""))
        if kind:
            return kind
    return None
