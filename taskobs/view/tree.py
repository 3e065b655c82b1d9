"""A trace as a tree for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskobs.view.issues import Issue
    from taskobs.view.traces import Node, Trace

MARKS = {
    "succeeded": ("✓", "green"),
    "failed": ("✗", "red"),
    "lost": ("✗", "red"),
    "unknown": ("✗", "red"),
    "retried": ("↻", "yellow"),
}
OTHER_MARK = ("-", "cyan")
ROLE_COLOURS = {"publish": "blue", "run": None, "other": "magenta"}
LABEL_WIDTH = 64
NAME_WIDTH = 32
"""The least that a name gets, however deep in its trace."""


def printable(text: object) -> str:
    """Replace control characters: a task's name must not steer the terminal."""
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text)
    )


def duration(seconds: float) -> str:
    """Write seconds for people: ``0.4 ms``, ``42 ms``, ``1.20 s``."""
    if seconds < 0.001:  # noqa: PLR2004
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s"


def lines(trace: Trace) -> Iterator[str]:
    """Draw a trace, one line a span, coloured for `click.echo` (which strips colour if need be)."""
    rows = [(prefix, node) for root in trace.roots for prefix, node in _branches(root, "", "")]
    width = min(LABEL_WIDTH, max(len(prefix) + len(node.span.name) for prefix, node in rows))
    yield click.style(f"trace {trace.trace_id}", bold=True) + f"  {duration(trace.seconds)}"
    for prefix, node in rows:
        yield _line(prefix, node, width)


def _branches(node: Node, prefix: str, below: str) -> Iterator[tuple[str, Node]]:
    left = [(prefix, node, below)]
    while left:
        prefix, node, below = left.pop()
        yield prefix, node
        for child in reversed(node.children):
            last = child is node.children[-1]
            branch, rest = ("└─ ", "   ") if last else ("├─ ", "│  ")
            left.append((below + branch, child, below + rest))


def _line(prefix: str, node: Node, width: int) -> str:
    name = printable(node.span.name)
    room = max(NAME_WIDTH, width - len(prefix))
    name = name if len(name) <= room else name[: room - 1] + "…"
    label = click.style(prefix, dim=True) + click.style(name, fg=ROLE_COLOURS[node.role])
    padding = " " * max(0, width - len(prefix) - len(name))
    return f"{label}{padding}  {duration(node.seconds):>8}{_outcome(node)}".rstrip()


def _outcome(node: Node) -> str:
    parts: list[str] = []
    if node.outcome:
        mark, colour = MARKS.get(node.outcome, OTHER_MARK)
        parts.append(click.style(f"{mark} {printable(node.outcome)}", fg=colour))
    if node.queue_latency is not None:
        parts.append(click.style(f"queued {duration(node.queue_latency)}", dim=True))
    if node.note:
        parts.append(printable(node.note))
    return "".join(f"  {part}" for part in parts)


def issue_lines(issue: Issue) -> Iterator[str]:
    """Draw a Sentry issue: its title, its trace and its tags."""
    title = click.style(printable(issue.title), fg="red", bold=True)
    yield f"{title}: {printable(issue.message)}"
    pairs = {"trace_id": issue.trace_id, "span_id": issue.span_id} | dict(
        sorted(issue.tags.items())
    )
    width = max(map(len, pairs))
    for key, value in pairs.items():
        yield f"  {click.style(printable(key).ljust(width), dim=True)}  {printable(value)}"
