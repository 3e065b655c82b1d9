"""What is kept for the page: once each, within a bound, and told without a gap."""

from __future__ import annotations

import threading
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from taskobs.testing.wire import Received, ReceivedLog
from taskobs.view.storage.store import MEBIBYTE, OUTSIDE, Found, Query, Store
from tests.support import demo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskobs.testing.wire import ReceivedSpan

ALL = Query()
PATIENCE = 60.0


def trace_id(number: int) -> str:
    return f"{number:032x}"


def run(number: int, *, task: str = "charge", outcome: str = "succeeded", pad: int = 0) -> Any:
    """A run in a trace of its own; ``pad`` makes it longer."""
    made = demo.span(number, f"run {task}", outcome=outcome, celery__task_id=f"task-{number}")
    attributes = {**made.attributes, **({"app.text": "x" * pad} if pad else {})}
    return replace(made, trace_id=trace_id(number), attributes=attributes)


def log(number: int, text: str = "paid", *, trace: str = "") -> ReceivedLog:
    return ReceivedLog(
        body=text,
        severity=9,
        severity_text="INFO",
        time_ns=number,
        observed_ns=number,
        trace_id=trace,
        span_id="",
        flags=1,
        attributes={"task_id": f"task-{number}"},
        dropped_attributes=0,
        resource={"service.name": "shop"},
        scope="shop",
    )


def numbers(found: Found) -> list[object]:
    return [one["number"] for one in found.traces]


def everything(store: Store, query: Query = ALL) -> list[dict[str, object]]:
    """All traces, a few at a time, as the page asks for older ones."""
    below: int | None = None
    found: list[dict[str, object]] = []
    while True:
        answer = store.newest(query, below=below, limit=7)
        found += answer.traces
        if not answer.more:
            return found
        below = int(str(found[-1]["number"]))


def test_the_newest_trace_stands_first() -> None:
    """I see what began last at the top, in the order of its arrival."""
    store = Store(MEBIBYTE)
    store.take(run(number) for number in range(1, 21))
    assert [one["trace_id"] for one in everything(store)] == [
        trace_id(number) for number in range(20, 0, -1)
    ]


def test_what_is_sent_twice_counts_once() -> None:
    """A batch that comes again after a lost answer leaves each span, event and line there once."""
    store = Store(MEBIBYTE)
    sent: list[Received] = [
        *demo.order(),
        demo.event(),
        log(1, trace=demo.TRACE),
        log(2, trace=demo.TRACE),
    ]
    store.take(sent)
    before = store.newest(ALL, below=None, limit=9)
    store.take(sent)
    after = store.newest(ALL, below=None, limit=9)
    assert before == after
    [one] = after.traces
    assert one["counts"] == {"span": 5, "run": 2, "event": 1, "log": 2}
    assert store.totals()["span"] == 5


def test_a_trace_says_what_became_of_its_runs() -> None:
    """The list has the title of the root, outcomes, tasks and the longest wait in a queue."""
    store = Store(MEBIBYTE)
    for one in demo.order():  # in no order, as it arrives
        store.take([one])
    [shown] = store.newest(ALL, below=None, limit=9).traces
    assert shown["title"] == "POST /orders"
    assert shown["outcomes"] == {"retried": 1, "failed": 1}
    assert shown["tasks"] == {"charge": 2}
    assert shown["queue_latency"] == 0.009
    assert shown["seconds"] == pytest.approx(1.54)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query("ship"), [3]),
        (Query("SHIP"), [3]),
        (Query("task-2"), [2]),
        (Query(trace_id(1)), [1]),
        (Query(trace_id(1)[-8:]), [1]),
        (Query("", "failed"), [2]),
        (Query("charge", "succeeded"), [1]),
        (Query("", "run"), [3, 2, 1]),
        (Query("", "event"), [4]),
        (Query("nothing of this name"), []),
        (Query("  "), [4, 3, 2, 1]),
    ],
    ids=str,
)
def test_search(query: Query, expected: list[int]) -> None:
    """I find a trace by a part of a task's name, by an id, and by an outcome."""
    store = Store(MEBIBYTE)
    store.take([run(1), run(2, outcome="failed"), run(3, task="ship"), demo.event()])
    assert numbers(store.newest(query, below=None, limit=9)) == expected
    assert numbers(store.changed(query, after=0, limit=9, timeout=0)) == expected[::-1]


def test_an_error_and_a_line_without_spans_are_shown() -> None:
    """What has a trace is in it though its spans never come; what has none has a place, too."""
    store = Store(MEBIBYTE)
    store.take([demo.event(), log(1), log(2)])
    lines, error = everything(store)
    assert (error["trace_id"], error["title"]) == (demo.TRACE, "CardDeclinedError")
    assert (lines["trace_id"], lines["counts"]) == (OUTSIDE, {"log": 2})


def follow(store: Store, stop: threading.Event) -> Iterator[Found]:
    """Ask as the page does, until all has been fed and nothing more comes."""
    cursor = 0
    while True:
        fed = stop.is_set()
        found = store.changed(ALL, after=cursor, limit=50, timeout=0.01)
        cursor = found.cursor
        yield found
        if fed and not found.traces:
            return


def test_a_follower_misses_nothing_and_hears_nothing_twice() -> None:
    """I watch while 1,200 runs come in from three sides, and each is told in its last state."""
    store, stop = Store(64 * MEBIBYTE), threading.Event()

    def feed(first: int) -> None:
        for number in range(first, 1200, 3):
            store.take([run(number)])
            store.take([log(number, trace=trace_id(number))])

    def end() -> None:
        for one in feeders:
            one.join()
        stop.set()

    feeders = [threading.Thread(target=feed, args=(first,)) for first in range(3)]
    ends = threading.Thread(target=end)
    for thread in (*feeders, ends):
        thread.start()
    seen: dict[object, dict[str, object]] = {}
    revisions: list[object] = []
    for found in follow(store, stop):
        seen |= {one["trace_id"]: one for one in found.traces}
        revisions += [one["revision"] for one in found.traces]
    ends.join()
    assert set(seen) == {trace_id(number) for number in range(1200)}
    assert all(one["counts"] == {"span": 1, "run": 1, "log": 1} for one in seen.values())
    assert len(revisions) == len(set(revisions)), "a state was told twice"


def test_a_follower_is_told_what_fell_out() -> None:
    """My page drops exactly the traces that the server no longer has, however often it asks."""
    store = Store(MEBIBYTE)
    cursor, shown = 0, dict[object, int]()
    for number in range(2000):
        store.take([run(number, pad=2000)])
        if number % 37 == 0:
            found = store.changed(ALL, after=cursor, limit=10_000, timeout=0)
            cursor = found.cursor
            shown |= {one["trace_id"]: int(str(one["revision"])) for one in found.traces}
            shown = {key: revision for key, revision in shown.items() if revision > found.evicted}
            assert set(shown) == {one["trace_id"] for one in everything(store)}
    assert len(shown) < 1000
    assert store.totals()["dropped_traces"] == 2000 - len(everything(store))


def grown(store: Store, spans: Iterator[ReceivedSpan]) -> int:
    """How many bytes of Python's memory it takes to keep spans."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for one in spans:
            store.take([one])
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pad", [0, 200, 20_000])
def test_memory_stays_within_the_bound(pad: int) -> None:
    """I let it run for days, and it takes no more than I allow, be the spans short or long."""
    limit = MEBIBYTE // 2
    store = Store(limit)
    number = 4 * limit // (4000 + pad)
    size = grown(store, (run(one, pad=pad) for one in range(number)))
    assert store.totals()["bytes"] <= limit
    assert store.totals().get("dropped_traces", 0) > number / 4
    assert size < 1.1 * limit


def test_one_trace_without_end_leaves_room_for_others() -> None:
    """A task that publishes itself makes a trace for ever: its oldest spans go, no other trace."""
    store = Store(MEBIBYTE)
    store.take([run(1), run(2)])
    size = grown(store, (replace(run(one), trace_id=trace_id(3)) for one in range(10, 1000)))
    third, *others = everything(store)
    assert numbers(store.newest(ALL, below=3, limit=9)) == [2, 1]
    assert len(others) == 2
    assert int(str(third["dropped"])) > 700
    assert size < MEBIBYTE // 2


def test_many_names_of_one_trace_are_bounded() -> None:
    """A sender that makes up names does not fill the memory beside the records."""
    store = Store(MEBIBYTE)
    spans = (
        replace(run(one, task=f"t{one}", outcome=f"o{one}"), trace_id=trace_id(1))
        for one in range(1000)
    )
    assert grown(store, spans) < MEBIBYTE // 2


def test_who_waits_is_told_at_once_and_let_go_at_the_end() -> None:
    """A browser's request waits for what is new, and does not hold up the end of the server."""
    store = Store(MEBIBYTE)
    found: list[Found] = []

    def wait(cursor: int) -> None:
        found.append(store.changed(ALL, after=cursor, limit=9, timeout=PATIENCE))

    waits = threading.Thread(target=wait, args=[0])
    waits.start()
    store.take([run(1)])
    waits.join(PATIENCE / 2)
    waits = threading.Thread(target=wait, args=[found[0].cursor])
    waits.start()
    store.close()
    waits.join(PATIENCE / 2)
    assert [numbers(one) for one in found] == [[1], []]
