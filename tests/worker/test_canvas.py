"""Whatever shape the work has, it is one trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain, chord, group

from taskobs.otel.task_spans import shared_task_signals
from tests.support.recording import Recorder, links

Get = Callable[[Any], Any]


def test_a_long_chord(app: Celery, spans: Recorder, result_of: Get) -> None:
    """The callback of a chord of 200 tasks is linked to as many runs as a span can hold."""
    add, total = app.tasks["add"], app.tasks["total"]
    assert result_of(chord([add.s(1, 1)] * 200)(total.s())) == 400
    spans.wait("run total", *["run add"] * 200)
    assert [kind for kind, _ in links(spans.one("run total"))] == ["chord_header"] * 128


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
