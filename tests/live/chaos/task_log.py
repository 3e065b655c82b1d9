"""What the tasks of tests/live/apps/chaos.py wrote down of themselves, also if they were killed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Address = tuple[str, str]
"""Trace id and span id, in hex."""


@dataclass
class Span:
    """A span inside a run: how far it came before its process ended."""

    pid: int
    last: float
    """When it was last written of, in seconds since the epoch."""
    size: int = 0
    """Characters of its long attribute; 0 if it has none."""
    ending: bool = False
    ended: bool = False


@dataclass
class Run:
    """A run whose task began; ``ending`` is None where its body did not come to an end."""

    pid: int
    last: float
    """When it was last written of, in seconds since the epoch."""
    task_id: str
    task: str
    parent: str
    ending: str | None = None


@dataclass
class Captured:
    """An event with an attachment, which a task gave to Sentry's client."""

    pid: int
    last: float
    size: int
    """Bytes of its attachment."""
    event_id: str = ""
    """Empty where the process was killed in the midst of it: it may arrive or not."""


@dataclass
class TaskLog:
    """All that the tasks wrote."""

    runs: dict[Address, Run] = field(default_factory=dict[Address, Run])
    spans: dict[Address, Span] = field(default_factory=dict[Address, Span])
    publishes: dict[Address, Span] = field(default_factory=dict[Address, Span])
    """Spans of publishes, of workers and of the producer."""
    captured: dict[Address, Captured] = field(default_factory=dict[Address, Captured])

    @classmethod
    def read(cls, file: Path) -> TaskLog:
        """Read a task_log that may still be written to."""
        task_log = cls()
        text = file.read_text() if file.exists() else ""
        for line in text[: text.rfind("\n") + 1].splitlines():
            what, pid, when, trace_id, span_id, *more = line.split()
            task_log.note(what, int(pid), float(when), (trace_id, span_id), more)
        return task_log

    def note(self, what: str, pid: int, when: float, address: Address, more: Sequence[str]) -> None:
        """Take one line."""
        match what, more:
            case "run", [task_id, task, parent]:
                self.runs[address] = Run(pid, when, task_id, task, parent)
            case "start", [size]:
                self.spans[address] = Span(pid, when, int(size))
            case (("ending" | "end"), []):
                span = self.spans[address]
                span.ending, span.ended, span.last = True, what == "end", when
            case "publish", []:
                self.publishes[address] = Span(pid, when, ending=True)
            case "capturing", [size]:
                self.captured[address] = Captured(pid, when, int(size))
            case "captured", [event_id]:
                self.captured[address].event_id = event_id
            case _, []:
                run = self.runs[address]
                run.ending, run.last = what, when
            case _:
                msg = f"no line of a task_log: {what} {more}"
                raise ValueError(msg)

    def ran(self) -> set[int]:
        """Return the processes, dead ones too, that have begun a run."""
        return {run.pid for run in self.runs.values()}

    def busy(self, before: float) -> set[int]:
        """Return the processes, dead ones too, that are in a run which began before that time."""
        return {run.pid for run in self.runs.values() if run.ending is None and run.last < before}

    def finished(self, task_id: str) -> list[Run]:
        """Return the runs of one message whose body came to its end."""
        return [
            run for run in self.runs.values() if run.task_id == task_id and run.ending is not None
        ]
