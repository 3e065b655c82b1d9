"""Recognises events about failures that are reported with their tags by other means.

Celery and billiard log each failed, lost, unknown or undecodable task once more. Apps may route
those records through any logger (loguru's recipe for interception, structlog), so they are
recognised by what they say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final

from taskobs.celery.patches.celery_stack import is_of_chord_header
from taskobs.observers.sentry.reported import exception_of, said_by

_RECORDS: Final = re.compile(
    r"""
    Process\ .{1,100}\ pid:\d+\ exited\ with\ .                # billiard.pool
    | Task\ \S+\[[^\]]*\]\ (?:raised\ unexpected|raised\ expected|INTERNAL\ ERROR):\ .
    | Task\ \S+\[[^\]]*\]\ (?:on_success|after_return)\ handler\ raised:\ .
    | Chord\ .{1,200}:\ chord_unlock\ could\ not\ be\ retried:\ .  # the polling task fails by it
    | Task\ handler\ raised\ error:\ .                         # celery.worker.request
    | Couldn't\ convert\ ETA\ .                               # celery.worker.strategy
    | (?:Hard|Soft)\ time\ limit\ \(\S+\)\ exceeded\ for\ \S+\[.
    | Received\ unregistered\ task\ of\ type\ .                # celery.worker.consumer
    | Received\ invalid\ task\ message:\ .
    | Can't\ decode\ message\ body:\ .
    | Received\ and\ deleted\ unknown\ message\.
    """,
    re.VERBOSE,
)
_CHORD_FAILED: Final = re.compile(r"Chord .{1,200} raised: ")
_REQUEST: Final = "celery.worker.request"
_ENDS: Final = frozenset({"on_failure", "on_timeout"})
"""Methods of a worker's request that end a run whose failure has been reported before."""
_STORES: Final = "celery.backends."


def is_duplicate(event: Mapping[str, object], hint: Mapping[str, Any]) -> bool:
    """Tell whether an event says what another one, with tags, says."""
    if hint.get("log_record") is not None:
        said = said_by(event)
        if _RECORDS.search(said):
            return True
        if _CHORD_FAILED.search(said):
            error = exception_of(hint)
            return error is None or is_of_chord_header(error)
    return _is_of_ended_run(exception_of(hint))


def _is_of_ended_run(error: BaseException | None) -> bool:
    """Tell whether a worker raised it while it noted the end of a run that has been reported.

    It raises MemoryError to end itself; and a result backend may refuse the result.
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
