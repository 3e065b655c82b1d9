"""An exception as a Sentry event: what Sentry makes of it, with less work."""

from __future__ import annotations

import inspect
import linecache
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, cast

from sentry_sdk.client import BaseClient
from sentry_sdk.types import Event, Hint
from sentry_sdk.utils import event_from_exception

from taskobs.observers import redact

# With its first event Sentry reads the metadata of all packages, and its thread looks up a host:
# this is imported then, and a fork in the midst of an import leaves the child stuck.
for _name in ("importlib.metadata._adapters", "encodings.idna"):
    with suppress(ImportError):
        import_module(_name)

_SOURCE_LINES: Final = 5
"""Lines of source before and after that of a frame, as many as Sentry's own."""
_OPTIONS: Final = "client_options" in inspect.signature(event_from_exception).parameters


class _Texts(list[str]):
    """A list of text that Sentry's serializer takes as it is.

    It visits each value that it is given, at about 5 us each; a class that has
    ``__sentry_repr__`` it asks instead.
    """

    def __sentry_repr__(self) -> list[str]:
        return list(self)


class _TextTable(dict[str, str]):
    """A dict of text, for the same reason."""

    def __sentry_repr__(self) -> dict[str, str]:
        return dict(self)


def event_of(
    exception: BaseException, client: BaseClient, *, variables: bool
) -> tuple[Event, Hint]:
    """Make the event; ``variables`` lets the client's options decide on frame variables."""
    arguments: dict[str, Any] = {"mechanism": {"type": "taskobs", "handled": False}}
    if not _OPTIONS:
        return event_from_exception(exception, **arguments)
    options = dict(client.options)
    if not variables:
        options["include_local_variables"] = False  # not even rendered
    # Sentry reads a module's file anew for each frame of each event; linecache remembers it.
    source = options.get("include_source_context")
    options["include_source_context"] = False
    event, hint = event_from_exception(exception, client_options=options, **arguments)
    if source:
        for frame in redact.frames(event):
            _add_source(frame, options.get("max_value_length"))
    return event, hint


def settle(event: dict[str, object]) -> None:
    """Spare the serializer the table of installed packages: half of all values of an event."""
    modules = redact.table(event.get("modules"))
    if set(map(type, modules.values())) == {str}:
        event["modules"] = _TextTable(cast("dict[str, str]", modules))


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
    texts = _Texts(line.strip("\r\n") for line in lines)
    if longest is not None and any(len(text) > longest for text in texts):
        return list(texts)  # for Sentry to cut
    return texts
