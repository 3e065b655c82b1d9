"""A trace in the terminal."""

from __future__ import annotations

import click
import pytest

from taskobs.testing.wire import ReceivedEvent
from taskobs.view.issues import issue
from taskobs.view.traces import assemble
from taskobs.view.tree import duration, issue_lines, lines
from tests.support import demo


def test_a_trace_reads_as_a_tree_with_times_and_outcomes() -> None:
    """I see who published what, how long it ran and how it ended."""
    (trace,) = assemble(demo.order())
    assert [click.unstyle(line) for line in lines(trace)] == [
        f"trace {demo.TRACE}  1.54 s",
        "POST /orders             10 ms",
        "└─ publish charge         1 ms",
        "   ├─ run charge         20 ms  ↻ retried  bank is slow",
        "   ├─ publish charge      1 ms",
        "   └─ run charge        1.50 s  ✗ failed  queued 9 ms  no funds · attempt 2",
    ]
    assert trace.failures == 1


def test_a_chord_callback_names_its_header() -> None:
    """The callback says how many runs it waited for."""
    links = {7: "chord_header", 8: "chord_header"}
    (trace,) = assemble([demo.span(1, "run notify", outcome="succeeded", links=links)])
    assert "after 2 header runs" in list(lines(trace))[1]


def test_a_span_that_came_twice_is_drawn_once() -> None:
    """A batch that was sent again does not double the tree."""
    (trace,) = assemble([*demo.order(), *demo.order()])
    assert len(list(trace.walk())) == 5


def test_an_orphan_is_a_root_and_a_loop_ends() -> None:
    """Spans with a parent that never came, or with each other as parents, still show."""
    loop = [demo.span(1, "run a", parent=2), demo.span(2, "run b", parent=1, at=1)]
    orphan = demo.span(3, "run c", parent=99, at=2)
    (trace,) = assemble([*loop, orphan])
    assert {node.span.name for _, node in trace.walk()} == {"run a", "run b", "run c"}


def test_a_task_name_can_not_steer_the_terminal() -> None:
    """Escape sequences in names and messages arrive as visible marks."""
    (trace,) = assemble(demo.order(demo.HOSTILE))
    drawn = "\n".join(click.unstyle(line) for line in lines(trace))
    shown = "\n".join(click.unstyle(line) for line in issue_lines(issue(demo.event(demo.HOSTILE))))
    for text in (drawn, shown):
        assert "\x1b" not in text
        assert "\N{REPLACEMENT CHARACTER}[31m" in text


def test_an_issue_shows_title_trace_and_tags() -> None:
    """The issue carries the ids that lead back to the trace."""
    assert [click.unstyle(line) for line in issue_lines(issue(demo.event()))] == [
        "CardDeclinedError: no funds",
        f"  trace_id        {demo.TRACE}",
        "  span_id         0000000000000005",
        "  celery.attempt  2",
        "  celery.task     charge",
    ]


def test_an_event_without_anything_is_still_an_issue() -> None:
    """Events of other shapes don't break the demo."""
    found = issue(ReceivedEvent(event_id="e", data={"exception": {"values": []}, "tags": []}))
    assert (found.title, found.trace_id, found.tags) == ("event", "", {})


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0004, "0.4 ms"), (0.042, "42 ms"), (1.2, "1.20 s")]
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    """No time has more digits than one can use."""
    assert duration(seconds) == text
