"""What holds for the events of a task's runs."""

from __future__ import annotations

from typing import NamedTuple

from taskobs.model import Outcome


class EventRule(NamedTuple):
    """Whether failures are events, and what is in those of a run."""

    errors: bool = True
    """Whether a failure is an event."""
    send_arguments: bool = False
    scrub: bool = False
    """Whether arguments are to be removed though other tasks send theirs."""
    link: bool = False
    """Whether a run has a trace of its own."""
    trace_url: str | None = None
    """The address of a page that shows a trace, for ``{trace_id}``; None for no link to it."""
    kept: frozenset[Outcome] = frozenset()
    """Outcomes of failures whose run is recorded though its trace is not sampled."""
