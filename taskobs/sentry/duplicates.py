"""Recognises events that repeat a failure which taskobs reports itself, with the run's tags.

Celery and billiard log each failed, lost, unknown or undecodable task, and Sentry makes an event of
an error in the log. An app may route these records through any logger (structlog, loguru's recipe
for interception), so they are recognised by their text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final

from taskobs.celery.patches.celery_stack import ETA_ERROR_ENDS_RUN, is_of_chord_header
from taskobs.observers.sentry.reported import exception_of, said_by

_RECORDS: Final = re.compile(
    r"""
    Process\ .{1,100}\ pid:\d+\ exited\ with\ .                # billiard.pool
    | Task\ \S+\[[^\]]*\]\ (?:raised\ unexpected|raised\ expected|INTERNAL\ ERROR):\ .
    | Task\ \S+\[[^\]]*\]\ (?:on_success|after_return)\ handler\ raised:\ .
    | Chord\ .{1,200}:\ chord_unlock\ could\ not\ be\ retried:\ .  # the polling task fails by it
    | Task\ handler\ raised\ error:\ .                         # celery.worker.request
    | (?:Hard|Soft)\ time\ limit\ \(\S+\)\ exceeded\ for\ \S+\[.
    | Received\ unregistered\ task\ of\ type\ .                # celery.worker.consumer
    | Received\ invalid\ task\ message:\ .
    | Can't\ decode\ message\ body:\ .
    | Received\ and\ deleted\ unknown\ message\.
    """,
    re.VERBOSE,
)
_ETA: Final = re.compile(r"Couldn't convert ETA .")  # celery.worker.strategy
_CHORD_FAILED: Final = re.compile(r"Chord .{1,200} raised: ")
_REQUEST: Final = "celery.worker.request"
_ENDS: Final = frozenset({"on_failure", "on_timeout"})
"""Methods of Celery's ``Request`` that are called after the failure of its run was reported."""
_STORES: Final = "celery.backends."


def is_duplicate(event: Mapping[str, object], hint: Mapping[str, Any]) -> bool:
    """Tell whether an event repeats a failure that has an event with tags."""
    if hint.get("log_record") is not None:
        said = said_by(event)
        if _RECORDS.search(said) or (ETA_ERROR_ENDS_RUN and _ETA.search(said)):
            return True
        if _CHORD_FAILED.search(said):
            error = exception_of(hint)
            return error is None or is_of_chord_header(error)
    return _is_of_ended_run(exception_of(hint))


def _is_of_ended_run(error: BaseException | None) -> bool:
    """Tell whether Celery raised an error while it recorded the end of a run that was reported.

    There it raises MemoryError to end the worker, and a result backend may refuse the result.
    """
    if error is None:
        return False
    frames = list(_frames(error.__traceback__))
    for (module, name), (following, _) in zip(frames, [*frames[1:], ("", "")], strict=True):
        if module == _REQUEST and name in _ENDS:
            return not following or following.startswith(_STORES)
    return False


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, str]]:
    while traceback is not None:
        frame = traceback.tb_frame
        yield str(frame.f_globals.get("__name__")), frame.f_code.co_name
        traceback = traceback.tb_next
