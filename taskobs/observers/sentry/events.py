"""Makes a Sentry event of an exception: the same event as Sentry's own code, for less work."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, cast

from sentry_sdk.client import BaseClient
from sentry_sdk.types import Event, Hint
from sentry_sdk.utils import event_from_exception

from taskobs.observers.sentry import redact

# With its first event Sentry reads the metadata of all packages, and its thread looks up a host.
# Both import these modules, and a fork while another thread is importing leaves the child stuck.
for _name in ("importlib.metadata._adapters", "encodings.idna"):
    with suppress(ImportError):
        import_module(_name)

MECHANISM: Final = {"type": "celery", "handled": False}
"""As Sentry's own integration has it, for searches and alerts that look for it."""
SOFT_LIMIT: Final = "SoftTimeLimitExceeded"

_SOURCE_LINES: Final = 5
"""Lines of source before and after that of a frame, as many as Sentry's own."""
_REPORTING: Final = frozenset({"sentry_sdk", "taskobs"})
_TAKES_OPTIONS: Final = "client_options" in inspect.signature(event_from_exception).parameters


class Texts(list[str]):
    """A list of strings that Sentry's serializer takes as it is.

    The serializer visits each value of an event, at about 5 us each, unless the value's class
    has ``__sentry_repr__``, which it calls instead.
    """

    def __sentry_repr__(self) -> list[str]:
        return list(self)


class TextTable(dict[str, str]):
    """A dict of strings, for the same reason."""

    def __sentry_repr__(self) -> dict[str, str]:
        return dict(self)


def event_of(
    exception: BaseException, client: BaseClient, *, variables: bool
) -> tuple[Event, Hint]:
    """Make the event; with ``variables`` the client's options decide on the frames' variables."""
    if not _TAKES_OPTIONS:
        return event_from_exception(exception, mechanism=dict(MECHANISM))
    options = dict(client.options)
    if not variables:
        options["include_local_variables"] = False  # so they are not even rendered
    if not options.get("add_full_stack"):  # for which Sentry compares the source of frames
        try:
            return _with_cached_source(exception, options)
        except Exception as error:
            # Sentry's code may need what is left out here, under an option or in another release.
            if is_soft_limit(error):
                raise
    return _sentrys_own(exception, options)


def is_soft_limit(exception: BaseException) -> bool:
    """Tell whether it is Celery's or billiard's soft time limit, or derives from it, by name."""
    return any(
        kind.__name__ == SOFT_LIMIT
        and kind.__module__ in ("billiard.exceptions", "celery.exceptions")
        for kind in type(exception).__mro__
    )


def spare_serializer(event: dict[str, object]) -> None:
    """Have the serializer take the table of packages, half of an event's values, as it is."""
    modules = redact.table(event.get("modules"))
    if set(map(type, modules.values())) == {str}:
        event["modules"] = TextTable(cast("dict[str, str]", modules))


def _sentrys_own(exception: BaseException, options: dict[str, Any]) -> tuple[Event, Hint]:
    event, hint = event_from_exception(exception, client_options=options, mechanism=dict(MECHANISM))
    if options.get("add_full_stack"):
        _drop_own_frames(event)
    return event, hint


def _with_cached_source(exception: BaseException, options: dict[str, Any]) -> tuple[Event, Hint]:
    # Sentry reads a module's file again for each frame of each event; linecache keeps it.
    source = options.get("include_source_context")
    event, hint = _sentrys_own(exception, {**options, "include_source_context": False})
    if source:
        for frame in redact.frames(event):
            _add_source(frame, options.get("max_value_length"))
    return event, hint


def _drop_own_frames(event: Mapping[str, Any]) -> None:
    """Remove from the full stack what is below the call that reports the failure."""
    for row in redact.rows(redact.table(event.get("exception")).get("values")):
        stack = redact.table(row.get("stacktrace"))
        stack["frames"] = [
            frame
            for frame in redact.rows(stack.get("frames"))
            if str(frame.get("module")).partition(".")[0] not in _REPORTING
        ]


def _add_source(frame: dict[str, object], longest: int | None) -> None:
    path, number = frame.get("abs_path"), frame.get("lineno")
    if "context_line" in frame or not isinstance(path, str) or not isinstance(number, int):
        return
    lines, at = linecache.getlines(path), number - 1
    found = at < len(lines)  # a file may have changed since it was imported
    frame["pre_context"] = _texts(lines[max(0, at - _SOURCE_LINES) : at] if found else [], longest)
    frame["context_line"] = lines[at].strip("\r\n") if found else None
    frame["post_context"] = _texts(lines[at + 1 : at + 1 + _SOURCE_LINES], longest)


def _texts(lines: list[str], longest: int | None) -> list[str]:
    texts = Texts(line.strip("\r\n") for line in lines)
    if longest is not None and any(len(text) > longest for text in texts):
        return list(texts)  # for Sentry to cut
    return texts
