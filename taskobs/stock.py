"""The span attributes of OpenTelemetry's own Celery instrumentation, kept for its dashboards.

The keys and the odd spellings are those of ``opentelemetry-instrumentation-celery``; one value
differs on purpose: ``celery.hostname`` is the worker's, where stock gives the producer's.
"""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_ACTION: Final = "celery.action"
_DESTINATION: Final = "messaging.destination"
_DESTINATION_KIND: Final = "messaging.destination_kind"
_CONVERSATION: Final = "messaging.conversation_id"
_PLAIN: Final = ("reply_to", "serializer", "countdown", "eta", "expires")


def of_publish(exchange: str | None, routing_key: str | None, declare: Any) -> Mapping[str, object]:
    """Return what stock sets on the span of a publish."""
    attributes: dict[str, object] = {_ACTION: "apply_async"}
    if routing_key:
        attributes[_DESTINATION] = routing_key
    if exchange:
        attributes["celery.exchange"] = exchange
    kinds = {"direct": "queue", "topic": "topic"}
    for queue in declare or ():
        kind = kinds.get(getattr(queue.exchange, "type", ""))
        if kind:
            attributes[_DESTINATION_KIND] = kind
            break
    return attributes


def of_run(routing_key: str | None, request: Any) -> Mapping[str, object]:
    """Return what stock sets on the span of a run."""
    return dict(_of_run(routing_key, request))


def _of_run(routing_key: str | None, request: Any) -> Iterator[tuple[str, object]]:
    yield _ACTION, "run"
    if request.correlation_id:
        yield _CONVERSATION, request.correlation_id
    if request.delivery_info:
        yield "celery.delivery_info", str(request.delivery_info)
    if routing_key:
        yield _DESTINATION, routing_key
    for key in _PLAIN:
        value = getattr(request, key, None)
        if value is not None and value != "":
            yield f"celery.{key}", value
    if request.retries:
        yield "celery.retries", request.retries
    limits = request.timelimit
    if limits and any(limit is not None for limit in limits):
        yield "celery.timelimit", ["" if limit is None else str(limit) for limit in limits]
