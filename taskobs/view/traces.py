"""Assembles received spans into traces: parents and outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskobs import semconv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from taskobs.testing.wire import ReceivedSpan

NS_PER_SECOND = 1_000_000_000


@dataclass(slots=True)
class Node:
    """A span, and the spans below it in the order in which they started."""

    span: ReceivedSpan
    children: list[Node] = field(default_factory=list["Node"])

    def walk(self) -> Iterator[tuple[int, Node]]:
        """Give this node and all below it with their depth, parents first."""
        left = [(0, self)]  # a loop: a task that publishes itself makes a trace without bottom
        while left:
            depth, node = left.pop()
            yield depth, node
            left += [(depth + 1, child) for child in reversed(node.children)]

    @property
    def role(self) -> str:
        """``publish``, ``run``, or ``other`` for a span that taskobs did not make."""
        for role, prefix in (("publish", semconv.PUBLISH_SPAN), ("run", semconv.RUN_SPAN)):
            if self.span.name.startswith(prefix):
                return role
        return "other"

    @property
    def outcome(self) -> str:
        """The run's outcome; ``failed`` or nothing for other spans."""
        outcome = self.span.attributes.get(semconv.CELERY_OUTCOME)
        if outcome is None:
            return "failed" if self.span.status == "error" else ""
        return str(outcome)

    @property
    def queue_latency(self) -> float | None:
        """Seconds between the publish and the run, if the span says."""
        value = self.span.attributes.get(semconv.CELERY_QUEUE_LATENCY)
        return value if isinstance(value, float) else None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.span.end_ns - self.span.start_ns) / NS_PER_SECOND

    @property
    def note(self) -> str:
        """Its error, the reason of a retry, and its links, as text."""
        return " · ".join(part for part in (self._trouble(), *self._ties()) if part)

    def _trouble(self) -> str:
        attributes = self.span.attributes
        for key in (semconv.CELERY_RETRY_REASON, semconv.CELERY_REASON):
            if attributes.get(key):
                return str(attributes[key])
        if self.span.status != "error":
            return ""
        return self.span.message or str(attributes.get(semconv.ERROR_TYPE, ""))

    def _ties(self) -> Iterator[str]:
        kinds = [link.attributes.get(semconv.LINK_KIND) for link in self.span.links]
        attempt = self.span.attributes.get(semconv.CELERY_ATTEMPT)
        # Not by the link: Jaeger keeps no attributes of links.
        if self.role == "run" and isinstance(attempt, int) and attempt > 1:
            yield f"attempt {attempt}"
        if count := kinds.count(semconv.LINK_CHORD_HEADER):
            yield f"after {count} header runs"


@dataclass(slots=True)
class Trace:
    """All spans of one trace; spans whose parent did not arrive are roots too."""

    trace_id: str
    roots: list[Node]

    def walk(self) -> Iterator[tuple[int, Node]]:
        """Give all nodes with their depth, parents first."""
        for root in self.roots:
            yield from root.walk()

    @property
    def start_ns(self) -> int:
        """When the first span began."""
        return min(node.span.start_ns for _, node in self.walk())

    @property
    def end_ns(self) -> int:
        """When the last span ended."""
        return max(node.span.end_ns for _, node in self.walk())

    @property
    def seconds(self) -> float:
        """From the first start to the last end."""
        return (self.end_ns - self.start_ns) / NS_PER_SECOND

    @property
    def failures(self) -> int:
        """How many of its runs failed."""
        return sum(n.role == "run" and n.span.status == "error" for _, n in self.walk())


def assemble(spans: Iterable[ReceivedSpan]) -> list[Trace]:
    """Put spans together to traces, the earliest first; a span that came twice counts once."""
    by_trace: dict[str, dict[str, Node]] = {}
    for span in sorted(spans, key=lambda span: span.start_ns):
        by_trace.setdefault(span.trace_id, {}).setdefault(span.span_id, Node(span))
    return [Trace(trace_id, _roots(nodes)) for trace_id, nodes in by_trace.items()]


def _roots(nodes: Mapping[str, Node]) -> list[Node]:
    """Add each node to its parent; return those without one (or with a loop of parents)."""
    roots: list[Node] = []
    for node in nodes.values():
        parent = nodes.get(node.span.parent_id)
        if parent is None or _above(node, parent, nodes):
            roots.append(node)
        else:
            parent.children.append(node)
    return roots


def _above(node: Node, parent: Node, nodes: Mapping[str, Node]) -> bool:
    """Whether ``node`` is its parent's ancestor, which only a broken sender can claim."""
    seen: set[str] = set()
    step: Node | None = parent
    while step is not None and step.span.span_id not in seen:
        if step is node:
            return True
        seen.add(step.span.span_id)
        step = nodes.get(step.span.parent_id)
    return False
