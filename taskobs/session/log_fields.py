"""Task and trace ids for logging libraries that don't use ``logging``'s records."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any, overload

from taskobs.celery.active import current_run
from taskobs.observers.logs import add_fields, fields_of

_EXTRA = "extra"
_RECORD = "_record"


@overload
def log_fields() -> dict[str, str]: ...
@overload
def log_fields(
    logger: Any,  # noqa: ANN401  # whatever structlog wraps
    method: str,
    event: MutableMapping[str, Any],
    /,
) -> MutableMapping[str, Any]: ...
@overload
def log_fields(record: logging.LogRecord, /) -> bool: ...
@overload
def log_fields(record: Mapping[str, Any], /) -> None: ...
def log_fields(*given: Any) -> Any:  # see above
    """Return ``task_id``, ``task_name``, ``trace_id``, ``span_id`` and ``trace_flags``, all texts.

    They are empty outside of a run or a span. The values of ``taskobs.context`` are among them, as
    texts, too. The function also is

    * a processor of structlog: ``processors=[taskobs.log_fields, ...]``. It adds the fields that
      are not empty to the event;
    * a patcher of loguru: ``logger.configure(patcher=taskobs.log_fields)``. It adds all of them to
      ``record["extra"]``;
    * a filter of ``logging``: ``handler.addFilter(taskobs.log_fields)``. It adds all of them to
      the record, and lets it pass; ``init()`` does the same unless ``log_ids`` is off.

    A field that is there already is kept.
    """
    if not given:
        return fields_of(current_run())
    *first, record = given
    if first:
        return _process(record)
    if isinstance(record, logging.LogRecord):
        add_fields(record, current_run())
        return True
    extra: MutableMapping[str, Any] = record[_EXTRA]
    for name, value in fields_of(current_run()).items():
        extra.setdefault(name, value)
    return None


def _process(event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    fields = fields_of(current_run())
    # ``ProcessorFormatter`` may format a record in another thread than the one that made it.
    record = event.get(_RECORD)
    made_with: dict[str, object] = getattr(record, "__dict__", {})
    for name, value in fields.items():
        current = made_with.get(name, value)
        if current:
            event.setdefault(name, current)
    return event
