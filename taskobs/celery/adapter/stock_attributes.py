"""The span attributes of OpenTelemetry's own Celery instrumentation, kept for its dashboards.

Keys, values and odd spellings are those of ``opentelemetry-instrumentation-celery``. What differs
on purpose is listed in docs/recording.md, with the reason; a test compares all of it.
"""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any, Final

from taskobs.celery.adapter.names import text_of

_DESTINATION_KINDS: Final = {"direct": "queue", "topic": "topic"}
_NO_LIMITS: Final = [None, None]  # as nearly always
_RARE: Final = {
    "compression": "celery.compression",
    "serializer": "celery.serializer",
    "countdown": "celery.countdown",
    "eta": "celery.eta",
    "expires": "celery.expires",
    "retries": "celery.retries",
}
"""The attributes for fields of a request that it seldom has."""


def of_publish(routing_key: str | None, declare: Any) -> dict[str, object]:
    """Return what stock sets on the span of a publish."""
    found: dict[str, object] = {"celery.action": "apply_async"}
    if routing_key:
        found["messaging.destination"] = routing_key
    kind = _kind(declare)
    if kind:
        found["messaging.destination_kind"] = kind
    return found


def of_run(routing_key: str | None, request: Any) -> dict[str, object]:
    """Return what stock sets on the span of a run."""
    return {**of_route(routing_key, request.delivery_info), **of_message(request)}


def of_route(routing_key: str | None, delivery_info: object) -> dict[str, object]:
    """Return the part of it that the route of a message decides."""
    found: dict[str, object] = {"celery.action": "run"}
    if routing_key:
        found["messaging.destination"] = routing_key
    if delivery_info is not None:
        try:
            found["celery.delivery_info"] = str(delivery_info)
        except Exception:  # noqa: BLE001  # with pickle, a message may have any object
            found["celery.delivery_info"] = type(delivery_info).__name__
    return found


def of_message(request: Any) -> dict[str, object]:
    """Return the other part: what each message may have of its own."""
    found: dict[str, object] = {}
    if request.correlation_id:
        found["messaging.conversation_id"] = request.correlation_id
    if request.reply_to:
        found["celery.reply_to"] = request.reply_to
    limits = request.timelimit
    if limits is not None and limits != _NO_LIMITS:
        _add_limits(found, limits)
    fields = vars(request)
    if any(map(fields.get, _RARE)):
        found.update({key: fields[name] for name, key in _RARE.items() if fields.get(name)})
    return found


def _add_limits(found: dict[str, object], limits: object) -> None:
    if isinstance(limits, (list, tuple)) and any(limit is not None for limit in limits):
        partly = any(limit is None for limit in limits)
        found["celery.timelimit"] = (
            [text_of(limit) or "" for limit in limits] if partly else [*limits]
        )


def _kind(declare: Any) -> str | None:
    for queue in declare or ():
        kind = _DESTINATION_KINDS.get(getattr(queue.exchange, "type", ""))
        if kind:
            return kind
    return None
