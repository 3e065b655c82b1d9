"""Context values through a worker: to all that follows from a task, and to nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain, chord, group

import taskobs
from taskobs.observers.context import accept as accept_context_keys
from tests.support.recording import Recorder, attribute

ResultOf = Callable[[Any], Any]
KEYS = ("tenant", "order")


@pytest.fixture(autouse=True)
def accepted() -> None:
    """Accept two keys from messages."""
    accept_context_keys(frozenset(KEYS))


def values(spans: Recorder, *names: str) -> dict[str, set[tuple[object, ...]]]:
    """Give what the spans of each name have."""
    return {
        name: {tuple(attribute(span, key) for key in KEYS) for span in spans.named(name)}
        for name in names
    }


def test_all_that_follows_has_the_values(app: Celery, spans: Recorder, result_of: ResultOf) -> None:
    """I publish for a tenant: retries, chains, chords, errbacks and nested publishes are for it."""
    add, total, note = (app.tasks[name] for name in ("add", "total", "note"))
    with taskobs.context(tenant="acme"):
        results = [
            app.tasks["flaky"].delay(),
            chain(add.s(1, 1), add.s(2))(),
            chord([add.s(1, 1), add.s(2, 2)])(total.s()),
            group(add.s(1, 1), add.s(2, 2))(),
            app.tasks["boom"].apply_async(link_error=note.s()),
            app.tasks["calls"].delay(),
            app.tasks["substitute"].delay(1),
        ]
    for result in results:
        result_of(result)
    adds = 2 + 2 + 2 + 1 + 1
    spans.wait(*["run flaky"] * 3, *["run add"] * adds, "run total", "run boom", "run calls")
    spans.wait("run note", "run substitute")
    tasks = ("flaky", "add", "total", "boom", "note", "calls", "substitute")
    names = [f"{kind} {task}" for kind in ("publish", "run") for task in tasks]
    assert values(spans, *names) == {name: {("acme", None)} for name in names}


def test_what_a_run_sets_is_for_what_follows_from_it(
    app: Celery, spans: Recorder, result_of: ResultOf
) -> None:
    """A task learns of an order: what it calls and what follows has it, and no other task."""
    add, marks = app.tasks["add"], app.tasks["marks"]
    with taskobs.context(tenant="acme"):
        result_of(chain(marks.si(1), add.si(1, 1))())
    result_of(marks.delay(2))
    result_of(app.tasks["calls"].delay())
    spans.wait("run calls", *["run marks"] * 2, *["run add"] * 4)
    assert values(spans, "run marks", "run calls", "run add") == {
        "run marks": {("acme", 1), (None, 2)},
        "run calls": {(None, None)},
        "run add": {("acme", 1), (None, 2), (None, None)},
    }
    assert values(spans, "publish marks") == {"publish marks": {("acme", None), (None, None)}}


def test_a_polled_chord_has_the_values(app: Celery, spans: Recorder, result_of: ResultOf) -> None:
    """My result backend is polled for the end of a chord: the callback is for my tenant, too."""
    # ``app.tasks["celery.chord_unlock"]`` retries until the header is done.
    add, total = app.tasks["add"], app.tasks["total"]
    header = [add.s(1, 1), add.s(2, 2)]
    with taskobs.context(tenant="acme"):
        results = group(header)()
        app.tasks["celery.chord_unlock"].apply_async(
            (results.id, total.s()), {"result": [one.as_tuple() for one in results], "interval": 0}
        )
    spans.wait("run total")
    assert values(spans, "run total") == {"run total": {("acme", None)}}
    result_of(results.results[0])
