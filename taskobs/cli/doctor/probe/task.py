"""The probe task: it writes down what it sees, and fails."""

# Celery ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownArgumentType=false

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from celery import Task, shared_task
from opentelemetry import trace

from taskobs.cli.doctor.checks.probe import CARRIED
from taskobs.cli.doctor.probe.message import EVENT, RUN, TASK, write

_LOGGER: Final = "celery.task"


class ProbeError(Exception):
    """Is raised by the probe task, so that there is an event."""


@shared_task(
    name=TASK,
    bind=True,
    base=Task,  # not the app's own: it may do more
    acks_late=False,
    ignore_result=False,
    max_retries=0,
    rate_limit=None,
    send_events=False,
    throws=(),
)
def probe(self: Any, folder: str) -> NoReturn:  # noqa: ANN401  # Celery's task
    """Write down what reached this run; then fail."""
    context = trace.get_current_span().get_span_context()
    ids = trace.format_trace_id(context.trace_id) if context.is_valid else ""
    seen = {
        "headers": _headers(self.request),
        "trace_id": ids,
        "span_id": trace.format_span_id(context.span_id) if context.is_valid else "",
        "sampled": bool(context.trace_flags & trace.TraceFlags.SAMPLED),
        "log_ids": _log_ids(str(self.request.id), ids),
    }
    _watch_event(Path(folder))
    write(Path(folder) / RUN, seen)
    raise ProbeError("a test event of taskobs doctor: nothing is wrong")


def _headers(request: Any) -> dict[str, str]:  # noqa: ANN401  # Celery's
    """Return the headers that carry a trace; Celery keeps them beside its own, or below."""
    below: Mapping[str, object] = request.headers or {}
    beside: Mapping[str, object] = vars(request)
    found = {name: beside.get(name) or below.get(name) for name in CARRIED}
    return {name: str(value) for name, value in found.items() if value}


def _log_ids(task_id: str, trace_id: str) -> bool | None:
    """Tell whether a line of a task has an id; None if no handler writes lines."""
    logger = logging.getLogger(_LOGGER)
    texts: list[str] = []
    for handler in _handlers(logger):
        record = logger.makeRecord(_LOGGER, logging.INFO, __file__, 0, "probe", (), None)
        try:
            texts.append(handler.format(record))
        except Exception:  # noqa: BLE001  # a format that names fields of other records alone
            texts.append("")
    ids = [one for one in (task_id, trace_id) if one]
    return any(one in text for text in texts for one in ids) if texts else None


def _handlers(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    while logger is not None:
        yield from (one for one in logger.handlers if isinstance(one, logging.StreamHandler))
        logger = logger.parent if logger.propagate else None


def _watch_event(folder: Path) -> None:
    """Have the event of this failure written down, as it is sent."""
    sdk = sys.modules.get("sentry_sdk")
    if sdk is None:
        return

    def note(event: dict[str, Any], _: object) -> dict[str, Any]:
        if _is_ours(event):
            traced: Mapping[str, Any] = (event.get("contexts") or {}).get("trace") or {}
            ids = {"trace_id": traced.get("trace_id"), "span_id": traced.get("span_id")}
            write(folder / EVENT, {"event_id": event.get("event_id"), **ids})
        return event

    # Added last, so that it sees what the others have made of the event.
    sdk.get_global_scope().add_event_processor(note)


def _is_ours(event: Mapping[str, Any]) -> bool:
    values: list[Mapping[str, Any]] = (event.get("exception") or {}).get("values") or []
    return any(value.get("type") == ProbeError.__name__ for value in values)
