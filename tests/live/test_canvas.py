"""Canvases over real brokers: one trace each, whoever calls them and however they are joined."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from taskobs import semconv
from taskobs.testing.receiver import Receiver
from tests.live.celery_process import Broker, LiveApp
from tests.live.process import LIMIT
from tests.live.shop import QUICK, Shop, tags

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from taskobs.testing.wire import ReceivedSpan
    from tests.live import services

APP = "tests.live.apps.canvas"
WAIT = "sent = given.apply_async(); result = sent.get(timeout=90)"
IMPORTS = "from celery import chain, chord, group\n"
NAMES = IMPORTS + "globals().update((n, getattr(app, n)) for n in app.__all__ if n != 'app')"
ENDS = {
    "redis": ("prefork", "spawn", "solo", "threads", "gevent", "eventlet"),
    "rabbitmq": ("prefork", "solo"),
    "polled": ("prefork",),
}
"""Each broker's pools; ``polled`` has a result backend that can't join chords by itself."""


@pytest.fixture(
    scope="module", params=[f"{b}-{pool}" for b, pools in ENDS.items() for pool in pools]
)
def shop(
    request: pytest.FixtureRequest,
    redis_server: services.Redis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Shop]:
    """One worker and one bare script for each broker and pool."""
    kind, pool = request.param.split("-")
    folder = tmp_path_factory.mktemp("canvas")
    url, backend = redis_server.url(), redis_server.url()
    if kind == "rabbitmq":
        url = request.getfixturevalue("rabbitmq_server").url()
    elif kind == "polled":
        (folder / "results").mkdir()
        backend = f"file://{folder / 'results'}"
    broker = Broker(kind, url, backend)
    # A poll in 0.1 s, or it takes longer than all the rest.
    env = {**QUICK, "APP_CONFIG": json.dumps({"result_chord_retry_interval": 0.1})}
    with Receiver() as receiver, LiveApp(folder, receiver.endpoint, receiver.dsn) as live:
        worker = live.worker(broker, pool=pool, app=APP, env=env)
        producer = live.producer(broker, app=APP, env=env)
        producer.run(NAMES)
        yield Shop(live, broker, receiver, worker, producer)


def trace_of(shop: Shop, source: str, expected: Sequence[str], *, value: Any = None) -> Spans:
    """Run ``source``, wait for the spans named in ``expected``, and see that they are one trace."""
    shop.receiver.clear()
    got = shop.run(source)
    assert value is None or got == value
    arrived = shop.receiver.wait_for(lambda r: len(r.spans) >= len(expected), LIMIT)
    spans = sorted(shop.receiver.spans, key=lambda span: span.start_ns)
    short = Counter(span.name.replace(f"{APP.rpartition('.')[0]}.", "") for span in spans)
    assert arrived and short == Counter(expected), short  # noqa: PT018  # both say it together
    assert len({span.trace_id for span in spans}) == 1
    ids_in_trace = {span.span_id for span in spans}
    [root] = [span for span in spans if span.parent_id not in ids_in_trace]
    assert root.parent_id == ""
    assert all(s.status != "error" for s in spans if s.name.startswith(semconv.PUBLISH_SPAN))
    return Spans(spans)


class Spans:
    """The spans of one trace."""

    def __init__(self, spans: Sequence[ReceivedSpan]) -> None:
        self.all = spans
        self.by_id = {span.span_id: span for span in spans}

    def runs(self, task: str) -> list[ReceivedSpan]:
        """The runs of a task, by the order of their starts."""
        return [span for span in self.all if span.name == f"run {_full(task)}"]

    def run(self, task: str) -> ReceivedSpan:
        """The only run of a task."""
        [found] = self.runs(task)
        return found

    def caller(self, span: ReceivedSpan) -> ReceivedSpan:
        """What published a run: the parent of its publish."""
        publish = self.by_id[span.parent_id]
        assert publish.name.startswith(semconv.PUBLISH_SPAN)
        return self.by_id[publish.parent_id]

    def ids(self, key: str) -> set[object]:
        """All values of an attribute."""
        return {span.attributes[key] for span in self.all if key in span.attributes}


def _full(task: str) -> str:
    module, _, name = task.rpartition(".")
    return f"tests.live.apps.{module}.{name}" if module in {"shop", "canvas"} else task


def both(*tasks: str) -> list[str]:
    """The two spans of each task."""
    return [f"{kind} {task}" for task in tasks for kind in ("publish", "run")]


def linked(span: ReceivedSpan, kind: str) -> list[str]:
    """The spans that a span is linked to, in the order of the links."""
    return [link.span_id for link in span.links if link.attributes.get(semconv.LINK_KIND) == kind]


ADD, TOTAL, FAIL, RETRY = "shop.add", "shop.total", "shop.fail", "shop.retry_then_ok"
ERRBACK, BECOMES, TIMES, PRODUCT = (
    "canvas.sanitize",
    "canvas.becomes",
    "canvas.times",
    "canvas.times_all",
)


def see_links(callback: ReceivedSpan, runs: Sequence[ReceivedSpan]) -> None:
    """A chord's callback is linked to each of the runs that it waited for, once."""
    links = linked(callback, semconv.LINK_CHORD_HEADER)
    assert sorted(links) == sorted(run.span_id for run in runs)


@pytest.mark.row("canvas", "chain")
def test_a_chain_is_one_trace(shop: Shop) -> None:
    """Each link of my chain hangs on the one before, and all have the root's id."""
    spans = trace_of(
        shop,
        f"given = add.s(1, 2) | add.s(3) | times.s(4)\n{WAIT}",
        both(ADD, ADD, TIMES),
        value=24,
    )
    first, second = spans.runs(ADD)
    third = spans.run(TIMES)
    assert spans.caller(second) is first
    assert spans.caller(third) is second
    root = first.attributes[semconv.MESSAGING_MESSAGE_ID]
    assert spans.ids(semconv.CELERY_ROOT_ID) == {root}
    assert second.attributes[semconv.CELERY_PARENT_ID] == root
    assert (
        third.attributes[semconv.CELERY_PARENT_ID]
        == second.attributes[semconv.MESSAGING_MESSAGE_ID]
    )


@pytest.mark.row("canvas", "group")
def test_a_group_is_one_trace(shop: Shop) -> None:
    """My group is one trace with one parent, though my script has no span."""
    spans = trace_of(
        shop,
        f"given = group(add.s(n, n) for n in range(3))\n{WAIT}\nresult = sent.id",
        ["publish celery.group", *both(ADD, ADD, ADD)],
    )
    [group_id] = spans.ids(semconv.CELERY_GROUP_ID)
    runs = spans.runs(ADD)
    assert {spans.caller(run).name for run in runs} == {"publish celery.group"}
    assert [run.attributes[semconv.CELERY_GROUP_ID] for run in runs] == [group_id] * 3


def chord_of(shop: Shop, header: str, expected: Sequence[str], **more: Any) -> Spans:
    source = f"given = chord([{header}], {more.pop('body', 'total.s()')})\n{WAIT}"
    return trace_of(shop, source, ["publish celery.chord", *expected], **more)


@pytest.mark.row("canvas", "chord")
def test_a_chord_is_one_trace(shop: Shop) -> None:
    """From my chord's callback I find each of the runs that it waited for."""
    header = "add.s(1, 1), add.s(2, 2), times.s(3, 3)"
    spans = chord_of(shop, header, both(ADD, ADD, TIMES, TOTAL), value=15)
    runs = [*spans.runs(ADD), spans.run(TIMES)]
    see_links(spans.run(TOTAL), runs)
    assert len({run.attributes[semconv.CELERY_GROUP_ID] for run in runs}) == 1
    assert {spans.caller(run).name for run in runs} == {"publish celery.chord"}


@pytest.mark.row("canvas", "chord")
def test_a_retried_header_task_is_linked_by_its_last_run(shop: Shop) -> None:
    """One of my chord's header tasks needs a second attempt: that one is what the chord got."""
    # Not at once: Celery's file backend lets the two attempts write one result at a time into
    # each other, and nobody can read it.
    header = "add.s(1, 1), retry_then_ok.s(1, countdown=3)"
    spans = chord_of(shop, header, both(ADD, RETRY, RETRY, TOTAL), value=4)
    first, second = spans.runs(RETRY)
    assert linked(second, semconv.LINK_RETRY_OF) == [first.span_id]
    see_links(spans.run(TOTAL), [spans.run(ADD), second])


@pytest.mark.row("canvas", "chord")
def test_a_chord_body_that_is_a_chain(shop: Shop) -> None:
    """Only the first task of my chord's body waited for the header."""
    spans = chord_of(
        shop,
        "add.s(1, 1), add.s(2, 2)",
        both(ADD, ADD, TOTAL, TIMES),
        body="total.s() | times.s(5)",
        value=30,
    )
    see_links(spans.run(TOTAL), spans.runs(ADD))
    assert linked(spans.run(TIMES), semconv.LINK_CHORD_HEADER) == []
    assert spans.caller(spans.run(TIMES)) is spans.run(TOTAL)


@pytest.mark.row("canvas", "chord")
def test_a_chord_in_a_chord(shop: Shop) -> None:
    """The callback of my inner chord is a header task of the outer one."""
    inner = "chord([add.s(1, 1), add.s(2, 2)], times_all.s())"
    spans = chord_of(
        shop, f"{inner}, times.s(3, 3)", both(ADD, ADD, PRODUCT, TIMES, TOTAL), value=17
    )
    see_links(spans.run(PRODUCT), spans.runs(ADD))
    see_links(spans.run(TOTAL), [spans.run(PRODUCT), spans.run(TIMES)])


@pytest.mark.row("canvas", "chord")
def test_a_chord_of_chains(shop: Shop) -> None:
    """What my callback waited for is the end of each chain in the header."""
    header = "add.s(1, 1) | times.s(3), add.s(2, 2) | times.s(4)"
    spans = chord_of(shop, header, both(ADD, ADD, TIMES, TIMES, TOTAL), value=22)
    see_links(spans.run(TOTAL), spans.runs(TIMES))


@pytest.mark.row("canvas", "map/starmap/chunks")
def test_map_and_starmap_name_the_inner_task(shop: Shop) -> None:
    """I look for my task's name, not for Celery's."""
    spans = trace_of(shop, f"given = total.map([[1, 2], [3]])\n{WAIT}", both(TOTAL), value=[3, 3])
    assert spans.ids(semconv.CELERY_TASK_NAME) == {"celery.map"}
    assert spans.ids(semconv.CELERY_INNER_TASK) == {_full(TOTAL)}
    trace_of(shop, f"given = add.starmap([[1, 2], [3, 4]])\n{WAIT}", both(ADD), value=[3, 7])


@pytest.mark.row("canvas", "map/starmap/chunks")
def test_chunks_are_one_trace(shop: Shop) -> None:
    """My chunks are a group, in one trace."""
    source = f"given = add.chunks([[1, 2], [3, 4], [5, 6]], 2).group()\n{WAIT}"
    trace_of(shop, source, ["publish celery.group", *both(ADD, ADD)], value=[[3, 7], [11]])


@pytest.mark.row("canvas", "replace")
@pytest.mark.parametrize("other", ["add.s(3, 4)", "add.s(1, 2) | times.s(3)"])
def test_a_replacement_is_a_child_of_what_it_replaces(shop: Shop, other: str) -> None:
    """My task is replaced by another, or by a chain, and the trace tells."""
    chained = "times" in other
    expected = both(BECOMES, ADD, TIMES) if chained else both(BECOMES, ADD)
    source = f"given = becomes.s({other})\n{WAIT}"
    spans = trace_of(shop, source, expected, value=9 if chained else 7)
    replaced = spans.run(BECOMES)
    assert replaced.attributes[semconv.CELERY_OUTCOME] == "ignored"
    assert replaced.status != "error"
    assert spans.caller(spans.run(ADD)) is replaced


@pytest.mark.row("canvas", "replace")
def test_a_replacement_by_a_chord(shop: Shop) -> None:
    """My task is replaced by a chord."""
    source = f"given = becomes.s(chord([add.s(1, 1), add.s(2, 2)], total.s()))\n{WAIT}"
    spans = trace_of(shop, source, both(BECOMES, ADD, ADD, TOTAL), value=6)
    see_links(spans.run(TOTAL), spans.runs(ADD))
    assert {spans.caller(run).name for run in spans.runs(ADD)} == {f"run {_full(BECOMES)}"}


@pytest.mark.row("canvas", "replace")
def test_a_replacement_by_a_group(shop: Shop) -> None:
    """My task is replaced by a group, which Celery makes a chord with a callback of its own."""
    source = f"given = becomes.s(group(add.s(1, 1), add.s(2, 2)))\n{WAIT}"
    gathered = ("celery.accumulate",)
    spans = trace_of(shop, source, both(BECOMES, ADD, ADD, *gathered), value=[2, 4])
    see_links(spans.run(*gathered), spans.runs(ADD))


@pytest.mark.row("canvas", "link")
def test_a_link_is_a_child_of_what_it_follows(shop: Shop) -> None:
    """The callback that I link to a task is in its trace."""
    source = "given = add.signature((1, 2), link=times.s(5)); sent = given.apply_async()"
    spans = trace_of(shop, source, both(ADD, TIMES))
    assert spans.caller(spans.run(TIMES)) is spans.run(ADD)


@pytest.mark.row("canvas", "link_error")
def test_an_errback_is_a_child_of_what_failed(shop: Shop) -> None:
    """The errback that I link to a task is in its trace, and does not fail itself."""
    source = "given = fail.signature(link_error=sanitize.s()); given.apply_async()"
    spans = trace_of(shop, source, both(FAIL, ERRBACK))
    assert spans.caller(spans.run(ERRBACK)) is spans.run(FAIL)
    assert [s.name for s in spans.all if s.status == "error"] == [f"run {_full(FAIL)}"]
    shop.events(str(spans.run(FAIL).attributes[semconv.MESSAGING_MESSAGE_ID]), 1)


@pytest.mark.row("canvas", "chord")
def test_a_failed_header_task_is_one_event(shop: Shop) -> None:
    """One header task of my chord fails: its errback runs, one event comes, nothing else."""
    source = (
        "given = chord([add.s(1, 1), fail.s()], total.s().on_error(sanitize.s()))\n"
        "sent = given.apply_async(); sent.get(timeout=90, propagate=False)"
    )
    expected = ["publish celery.chord", *both(ADD, FAIL, ERRBACK)]
    spans = trace_of(shop, source, expected)
    assert [s.name for s in spans.all if s.status == "error"] == [f"run {_full(FAIL)}"]
    shop.events(str(spans.run(FAIL).attributes[semconv.MESSAGING_MESSAGE_ID]), 1)
    assert len(shop.receiver.events) == 1


def test_a_callback_that_can_not_be_published_is_one_event(shop: Shop) -> None:
    """The header of my chord is done, and its callback can't be published: I hear of it once."""
    source = (
        "given = chord([add.s(1, 1), add.s(2, 2)], takes_nothing.s())\n"
        "sent = given.apply_async(); sent.get(timeout=90, propagate=False)"
    )
    spans = trace_of(shop, source, ["publish celery.chord", *both(ADD, ADD)])
    assert {span.status for span in spans.all} == {"unset"}
    assert shop.receiver.wait_for(lambda r: len(r.events) >= 1, LIMIT)
    [event] = shop.receiver.events
    assert "takes 0 positional arguments but 1 was given" in json.dumps(event.data["exception"])
    # The run of the header that was the last one, or Celery's task that polls for the header.
    assert tags(event)[semconv.TAG_TASK] in {_full(ADD), "celery.chord_unlock"}
    assert tags(event)[semconv.TAG_OUTCOME] == "succeeded"
