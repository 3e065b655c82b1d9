"""A small order as it would be received, for the tests of tree and page."""

from __future__ import annotations

from taskobs.testing.wire import ReceivedEvent, ReceivedLink, ReceivedMoment, ReceivedSpan

TRACE = "ab" * 16
MS = 1_000_000
START = 1_700_000_000_000 * MS
HOSTILE = "</script><script>alert(1)</script><!--\x1b[31m\u2028"


def span(
    number: int,
    name: str,
    *,
    parent: int | None = None,
    at: int = 0,
    ms: int = 1,
    outcome: str = "",
    status: str = "unset",
    links: dict[int, str] | None = None,
    **attributes: object,
) -> ReceivedSpan:
    values = {key.replace("__", "."): value for key, value in attributes.items()}
    if outcome:
        values["celery.outcome"] = outcome
    failure = ReceivedMoment(
        name="exception", time_ns=START, attributes={"exception.type": "CardDeclinedError"}
    )
    return ReceivedSpan(
        trace_id=TRACE,
        span_id=f"{number:016x}",
        parent_id="" if parent is None else f"{parent:016x}",
        name=name,
        start_ns=START + at * MS,
        end_ns=START + (at + ms) * MS,
        attributes=values,
        status=status,
        message="no funds" if status == "error" else "",
        events=(failure,) if status == "error" else (),
        links=tuple(
            ReceivedLink(trace_id=TRACE, span_id=f"{other:016x}", attributes={"celery.link": kind})
            for other, kind in (links or {}).items()
        ),
    )


def order(task: str = "charge") -> list[ReceivedSpan]:
    """A request that publishes a task, which is retried and then fails; in no order."""
    return [
        span(4, f"publish {task}", parent=2, at=30),
        span(
            5,
            f"run {task}",
            parent=2,
            at=40,
            ms=1500,
            outcome="failed",
            status="error",
            links={3: "retry_of"},
            celery__attempt=2,
            celery__queue_latency=0.009,
        ),
        span(1, "POST /orders", ms=10),
        span(
            3,
            f"run {task}",
            parent=2,
            at=8,
            ms=20,
            outcome="retried",
            celery__retry__reason="bank is slow",
        ),
        span(2, f"publish {task}", parent=1, at=2),
    ]


def event(message: str = "no funds") -> ReceivedEvent:
    return ReceivedEvent(
        event_id="e" * 32,
        data={
            "exception": {"values": [{"type": "CardDeclinedError", "value": message}]},
            "tags": {"celery.task": "charge", "celery.attempt": 2},
            "contexts": {"trace": {"trace_id": TRACE, "span_id": f"{5:016x}"}},
        },
    )
