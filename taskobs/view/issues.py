"""What Sentry would show of an error event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from taskobs.testing.wire import ReceivedEvent

MAX_EXCEPTIONS: Final = 10
MAX_FRAMES: Final = 60
"""The innermost frames that are shown of one exception."""
CONTEXT: Final = 3
"""Lines that are shown before and after that of a frame."""
LONGEST_LINE: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A call in a stack."""

    file: str
    function: str
    line: int | None
    in_app: bool
    code: Sequence[tuple[int, str]] = ()
    """Numbered lines of the source around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """An exception of an event's chain; the innermost call is the last frame."""

    kind: str
    message: str
    frames: Sequence[Frame] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """An event."""

    event_id: str
    title: str
    message: str
    level: str
    tags: Mapping[str, str]
    trace_id: str
    span_id: str
    exceptions: Sequence[Raised] = ()
    """The one that was raised first, and last the one that ended the task."""


def issue(event: ReceivedEvent) -> Issue:
    """Read an event; what it lacks is empty."""
    trace = _mapping(_mapping(event.data.get("contexts")).get("trace"))
    exceptions = [_exception(one) for one in _rows(event.data.get("exception"))]
    last = exceptions[-1] if exceptions else Raised(kind="", message="")
    return Issue(
        event_id=event.event_id,
        title=last.kind or _message(event.data) or "event",
        message=last.message,
        level=str(event.data.get("level") or "error"),
        tags=_tags(event.data.get("tags")),
        trace_id=str(trace.get("trace_id", "")),
        span_id=str(trace.get("span_id", "")),
        exceptions=exceptions[-MAX_EXCEPTIONS:],
    )


def _message(data: Mapping[str, object]) -> str:
    entry = _mapping(data.get("logentry"))
    return str(data.get("message") or entry.get("formatted") or entry.get("message") or "")


def _tags(value: object) -> dict[str, str]:
    """Sentry takes a mapping or a list of pairs."""
    pairs = [cast("list[object]", pair) for pair in _list(value) if isinstance(pair, list)]
    found = _mapping(value) or {str(pair[0]): pair[1] for pair in pairs if len(pair) > 1}
    return {str(name): str(tag) for name, tag in found.items()}


def _exception(row: Mapping[str, object]) -> Raised:
    frames = _list(_mapping(row.get("stacktrace")).get("frames"))
    return Raised(
        kind=str(row.get("type") or ""),
        message=str(row.get("value") or ""),
        frames=[_frame(_mapping(frame)) for frame in frames[-MAX_FRAMES:]],
    )


def _frame(frame: Mapping[str, object]) -> Frame:
    line = frame.get("lineno")
    number = line if isinstance(line, int) else None
    return Frame(
        file=str(frame.get("filename") or frame.get("abs_path") or frame.get("module") or ""),
        function=str(frame.get("function") or ""),
        line=number,
        in_app=frame.get("in_app") is not False,
        code=[] if number is None else list(_code(frame, number)),
    )


def _code(frame: Mapping[str, object], line: int) -> Iterator[tuple[int, str]]:
    if frame.get("context_line") is None:
        return
    before = _list(frame.get("pre_context"))[-CONTEXT:]
    after = _list(frame.get("post_context"))[:CONTEXT]
    for number, text in enumerate([*before, frame["context_line"], *after], line - len(before)):
        yield number, str(text)[:LONGEST_LINE]


def _rows(value: object) -> list[Mapping[str, object]]:
    """Read a list of mappings, which may be below ``values``."""
    found = _list(_mapping(value).get("values")) or _list(value)
    return [_mapping(row) for row in found]


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list) else ()
