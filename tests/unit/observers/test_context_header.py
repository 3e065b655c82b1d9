"""Context values in a message's header: bounded, and taken only as far as they are accepted."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from celery import Celery, signals
from celery.app.trace import build_tracer

from taskobs import semconv
from taskobs.celery.active import current_run
from taskobs.observers.context import accept as accept_context_keys
from taskobs.observers.context import header as context_header
from taskobs.observers.context import values as context_values
from taskobs.observers.context.header import HEADER_BYTES, read, write
from tests.support.recording import Recorder

HEADER = semconv.HEADER_CONTEXT
HOSTILE: list[object] = [
    *("{", "", "null", "7", '"text"', '["tenant"]', "[" * 2000, "{" * 2000, '{"tenant":' * 200),
    *('{"tenant": NaN}', '{"tenant": Infinity}', '{"tenant": -1e999}', '{"tenant": null}'),
    *('{"tenant": {"a": {"b": 1}}}', '{"tenant": [1, 2]}', '{"tenant": 1e400}'),
    '{"tenant": ' + "9" * 1500 + "}",
    '{"password": "x", "task_id": "y", "celery.queue": "z", "": 1}',
    json.dumps({"tenant": "x" * 1_000_000}),
    json.dumps({"user_id": "x" * HEADER_BYTES}),
    *({"tenant": "x"}, ["tenant"], 7, True, None, b'{"tenant": "x"}', b"\xff\xfe", 1.5),
]


@pytest.fixture(autouse=True)
def accepted() -> None:
    """Accept two keys from messages."""
    accept_context_keys(frozenset({"tenant", "user_id"}))
    context_header._warned.clear()  # pyright: ignore[reportPrivateUsage]


def message(**headers: object) -> dict[str, Any]:
    return {
        "id": "id-1",
        "task": "look",
        "is_eager": False,
        "hostname": "celery@w1",
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        **headers,
    }


def run_with(app: Celery, **headers: object) -> tuple[dict[str, object], list[dict[str, Any]]]:
    """Run a task that publishes; give its values, and the headers of what it published."""
    seen: list[dict[str, object]] = []
    sent: list[dict[str, Any]] = []

    app.tasks.pop("look", None)  # of an earlier call

    @app.task(name="look")
    def look() -> None:
        seen.append(dict(context_values.values_of(current_run())))
        app.send_task("next", headers={HEADER: headers.get(HEADER)})

    def catch(headers: dict[str, Any], **_: object) -> None:
        sent.append(dict(headers))

    signals.after_task_publish.connect(catch, weak=False, dispatch_uid="test")
    try:
        trace_task: Any = build_tracer("look", app.tasks["look"], app=app)
        trace_task("id-1", (), {}, message(**headers))
    finally:
        signals.after_task_publish.disconnect(dispatch_uid="test")
    return seen[0], sent


def test_what_is_written_is_read(app: Celery, spans: Recorder) -> None:
    """A run has the values that its message carries, and hands them on."""
    headers: dict[str, object] = {}
    write(headers, {"tenant": "acmé", "user_id": 7})
    assert str(headers[HEADER]).isascii()
    assert run_with(app, **headers)[0] == {"tenant": "acmé", "user_id": 7}
    values, sent = run_with(app, **headers)
    assert [json.loads(one[HEADER]) for one in sent] == [values]
    assert dict(spans.named("run look")[0].attributes or {})["tenant"] == "acmé"


def test_only_accepted_keys_are_taken(app: Celery, spans: Recorder) -> None:
    """A sender has more to say than I want to hear: the rest is dropped, and not handed on."""
    values, sent = run_with(app, **{HEADER: '{"tenant": "acme", "debug": true}'})
    assert values == {"tenant": "acme"}
    assert sent[0][HEADER] == '{"tenant":"acme"}'
    accept_context_keys(frozenset())
    values, sent = run_with(app, **{HEADER: '{"tenant": "acme"}'})
    assert values == {}
    assert HEADER not in sent[0]
    assert spans


@pytest.mark.parametrize("header", HOSTILE, ids=lambda value: repr(value)[:30])
def test_a_hostile_header_harms_nothing(app: Celery, spans: Recorder, header: object) -> None:
    """Somebody writes anything at all there: my task runs without it, and doesn't hand it on."""
    values, sent = run_with(app, **{HEADER: header})
    assert values == {}
    assert [HEADER in one for one in sent] == [False]
    assert "tenant" not in (spans.one("run look").attributes or {})


def test_what_can_be_used_of_a_header_is_used() -> None:
    """One value is broken: the others are taken, cut to what a tag can hold."""
    found = read(json.dumps({"tenant": "x" * 500 + "\n", "user_id": [7]}))
    assert found == {"tenant": "x" * 200}
    assert read('{"tenant": "\\ud800\\u0000\\r\\n"}') == {"tenant": "????"}


def test_a_header_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """I set more than fits: messages have what I set first, and the log says so once."""
    values = {f"key{number}": "ä" * 200 for number in range(3)}
    headers: dict[str, object] = {}
    with caplog.at_level(logging.WARNING):
        write(headers, values)
        write(headers, values)
    text = str(headers[HEADER])
    assert len(text.encode()) <= HEADER_BYTES
    assert list(json.loads(text)) == ["key0"]
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["key2", "key1"]


def test_without_values_what_is_there_is_removed() -> None:
    """A message that is handed on loses a header that nobody vouches for."""
    headers: dict[str, object] = {HEADER: "{}", "mine": "x"}
    write(headers, None)
    assert headers == {"mine": "x"}
