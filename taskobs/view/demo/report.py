"""What the demo prints at its end, and the page that it writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from taskobs.view import tree
from taskobs.view.demo import page
from taskobs.view.demo.target import address_in
from taskobs.view.issues import Issue, issue
from taskobs.view.traces import Trace, assemble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskobs.testing.receiver import Receiver
    from taskobs.view.demo.target import Target

DELIVERED = "delivered"
JAEGER_PORT = 16686


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the producer reports."""

    order: int
    trace_id: str
    outcome: str


def show(
    target: Target,
    orders: Sequence[Order],
    receiver: Receiver,
    log: Sequence[str],
) -> str:
    """Print trees, issue and log line, or where to look; give the page, if there are traces."""
    traces = assemble(receiver.spans)
    issues = [issue(event) for event in receiver.events]
    line = _log_line(log, *(order.trace_id for order in orders if order.outcome != DELIVERED))
    if issues:
        line = _log_line(log, issues[0].span_id, issues[0].trace_id)
    _show_traces(target, orders, traces)
    _show_issues(target, orders, issues)
    heading("A log line with the same ids")
    click.echo(f"  {tree.printable(line)}" if line else "  none came")
    if target.otlp is not None:
        return ""
    titles = {order.trace_id: f"Order {order.order}: {order.outcome}" for order in orders}
    return page.render(traces, issues, [line] if line else [], titles)


def _show_traces(target: Target, orders: Sequence[Order], traces: Sequence[Trace]) -> None:
    if target.otlp is not None:
        host = (address_in(target.otlp) or ("the OTLP endpoint", 0))[0]
        heading(f"The traces are with the backend at {host}: look for these ids")
        for order in orders:
            click.echo(f"  {order.trace_id}  order {order.order}: {tree.printable(order.outcome)}")
        click.echo(f"  A Jaeger there shows them at http://{host}:{JAEGER_PORT}/trace/<id>")
        return
    for order in orders:
        heading(f"Order {order.order}: {tree.printable(order.outcome)}")
        for trace in traces:
            if trace.trace_id == order.trace_id:
                click.echo("\n".join(f"  {line}" for line in tree.lines(trace)))


def _show_issues(target: Target, orders: Sequence[Order], issues: Sequence[Issue]) -> None:
    if target.sentry is not None:
        heading("The issue is in the Sentry project of SENTRY_DSN: search for")
        for order in orders:
            if order.outcome != DELIVERED:
                click.echo(f"  trace:{order.trace_id}  or the tag  celery.task:shop.charge_card")
        return
    heading("The Sentry issue")
    for found in issues:
        click.echo("\n".join(f"  {line}" for line in tree.issue_lines(found)))


def _log_line(log: Sequence[str], *ids: str) -> str:
    """The last line that carries an id; the earlier ids are the better ones."""
    return next((line for wanted in ids if wanted for line in reversed(log) if wanted in line), "")


def heading(text: str) -> None:
    """Begin a part of the output."""
    click.echo("\n" + click.style(text, bold=True))
