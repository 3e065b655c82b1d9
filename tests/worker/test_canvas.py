"""Whatever shape the work has, it is one trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain, chord, group

from taskobs.otel.task_spans import shared_task_signals
from tests.support.recording import Recorder, links, parent_id, span_id

Get = Callable[[Any], Any]


def test_chain(app: Celery, spans: Recorder, result_of: Get) -> None:
    """Each step of a chain hangs on the step before."""
    add = app.tasks["add"]
    assert result_of(chain(add.s(1, 1), add.s(2), add.s(3))()) == 7
    spans.wait(*["run add"] * 3)
    assert spans.tree() == [
        "publish add",
        "  run add",
        "    publish add",
        "      run add",
        "        publish add",
        "          run add",
    ]


def test_group(app: Celery, spans: Recorder, result_of: Get) -> None:
    """The parts of a group hang side by side on the group."""
    add = app.tasks["add"]
    assert result_of(group(add.s(1, 1), add.s(2, 2))()) == [2, 4]
    spans.wait(*["run add"] * 2)
    assert spans.traces == 1
    (whole,) = spans.named("publish celery.group")
    assert [parent_id(span) for span in spans.named("publish add")] == [span_id(whole)] * 2


def test_chord(app: Celery, spans: Recorder, result_of: Get) -> None:
    """The callback of a chord is in the header's trace, linked to every run of the header."""
    add, total = app.tasks["add"], app.tasks["total"]
    assert result_of(chord([add.s(1, 1), add.s(2, 2), add.s(3, 3)])(total.s())) == 12
    spans.wait("run total", *["run add"] * 3)
    assert spans.traces == 1
    headers = [("chord_header", span_id(span)) for span in spans.named("run add")]
    assert sorted(links(spans.one("run total"))) == sorted(headers)
    assert not [name for name in spans.names if "chord_unlock" in name]


def test_a_long_chord(app: Celery, spans: Recorder, result_of: Get) -> None:
    """The callback of a chord of 200 tasks is linked to as many runs as a span can hold."""
    add, total = app.tasks["add"], app.tasks["total"]
    assert result_of(chord([add.s(1, 1)] * 200)(total.s())) == 400
    spans.wait("run total", *["run add"] * 200)
    assert [kind for kind, _ in links(spans.one("run total"))] == ["chord_header"] * 128


def test_chord_whose_body_is_a_chain(app: Celery, spans: Recorder, result_of: Get) -> None:
    """When a chain follows the header, its first step is linked to the header."""
    add, total = app.tasks["add"], app.tasks["total"]
    assert result_of(chord([add.s(1, 1), add.s(2, 2)])(total.s() | add.s(10))) == 16
    spans.wait("run total", *["run add"] * 3)
    assert spans.traces == 1
    assert [kind for kind, _ in links(spans.one("run total"))] == ["chord_header"] * 2
    assert links(spans.named("run add")[-1]) == []


def test_chord_whose_body_is_a_group(app: Celery, spans: Recorder, result_of: Get) -> None:
    """When a group follows the header, each of its parts is linked to the header."""
    add, total = app.tasks["add"], app.tasks["total"]
    body = group(total.s(), total.s())
    assert result_of(chord([add.s(1, 1), add.s(2, 2)])(body)) == [6, 6]
    spans.wait(*["run total"] * 2)
    assert spans.traces == 1
    for part in spans.named("run total"):
        assert [kind for kind, _ in links(part)] == ["chord_header"] * 2


def test_chord_in_a_chain(app: Celery, spans: Recorder, result_of: Get) -> None:
    """A chord in the middle of a chain stays in the chain's trace."""
    add, total = app.tasks["add"], app.tasks["total"]
    work = chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s())
    assert result_of(work()) == 7
    spans.wait("run total", *["run add"] * 3)
    assert spans.traces == 1
    assert len(links(spans.one("run total"))) == 2


def test_chord_of_chords(app: Celery, spans: Recorder, result_of: Get) -> None:
    """Chords in the header of a chord are all one trace."""
    add, total = app.tasks["add"], app.tasks["total"]
    inner = [chord([add.s(1, 1), add.s(2, 2)], total.s()) for _ in range(2)]
    assert result_of(chord(inner)(total.s())) == 12
    spans.wait(*["run total"] * 3, *["run add"] * 4)
    assert spans.traces == 1


@pytest.mark.parametrize("kind", ["map", "starmap"])
def test_maps_are_named_for_their_task(
    app: Celery, spans: Recorder, result_of: Get, kind: str
) -> None:
    """A map says which task it maps."""
    if kind == "map":
        assert result_of(app.tasks["total"].map([[1, 2], [3]]).delay()) == [3, 3]
    else:
        assert result_of(app.tasks["add"].starmap([(1, 2), (3, 4)]).delay()) == [3, 7]
    name = "total" if kind == "map" else "add"
    spans.wait(f"run {name}")
    assert spans.tree() == [f"publish {name}", f"  run {name}"]
    attributes = spans.one(f"run {name}").attributes or {}
    assert attributes["celery.task_name"] == f"celery.{kind}"
    assert attributes["celery.inner_task_name"] == name


def test_chunks(app: Celery, spans: Recorder, result_of: Get) -> None:
    """Chunks are one trace."""
    chunks = app.tasks["add"].chunks([(1, 1), (2, 2), (3, 3)], 2)
    assert result_of(chunks.apply_async()) == [[2, 4], [6]]
    spans.wait(*["run add"] * 2)
    assert spans.traces == 1


def test_replace(app: Celery, spans: Recorder, result_of: Get) -> None:
    """A task that replaces itself is ignored, not failed; what replaces it hangs on it."""
    assert result_of(app.tasks["substitute"].delay(1)) == 2
    spans.wait("run substitute", "run add")
    assert spans.tree() == [
        "publish substitute",
        "  run substitute",
        "    publish add",
        "      run add",
    ]
    replaced = spans.one("run substitute")
    assert (replaced.status.status_code.name, (replaced.attributes or {})["celery.outcome"]) == (
        "UNSET",
        "ignored",
    )


def test_link_and_link_error(app: Celery, spans: Recorder, result_of: Get) -> None:
    """Callbacks and error callbacks hang on the task that they follow."""
    note = app.tasks["note"]
    result_of(app.tasks["add"].apply_async((1, 1), link=note.s()))
    spans.wait("run note")
    assert spans.tree() == ["publish add", "  run add", "    publish note", "      run note"]
    spans.clear()
    result_of(app.tasks["boom"].apply_async(link_error=note.s()))
    spans.wait("run boom")
    spans.wait("run note")
    assert spans.tree() == ["publish boom", "  run boom", "    publish note", "      run note"]


def test_a_task_that_calls_a_task(app: Celery, spans: Recorder, result_of: Get) -> None:
    """What a task publishes hangs on its run."""
    result_of(app.tasks["calls"].delay())
    spans.wait("run calls", "run add")
    assert spans.tree() == ["publish calls", "  run calls", "    publish add", "      run add"]


def test_a_backend_that_keeps_no_link_loses_no_span(
    app: Celery, spans: Recorder, result_of: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    """My result backend refuses what taskobs leaves there, and my chord's trace is whole."""

    def refuse(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("taskobs.celery.adapter.chord_links.BackendChordLinks.save", refuse)
    add, total = app.tasks["add"], app.tasks["total"]
    assert result_of(chord([add.s(1, 1), add.s(2, 2)])(total.s())) == 6
    spans.wait("run total", *["run add"] * 2)
    counts = shared_task_signals().guard.counts
    assert counts.pop("builtins.OSError") == 2  # counted, and said in the log
    assert spans.traces == 1
    assert links(spans.one("run total")) == []
