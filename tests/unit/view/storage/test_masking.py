"""No secret that telemetry names as one is kept for the page."""

from __future__ import annotations

import json
from dataclasses import replace
from time import process_time

import pytest

from taskobs.testing.wire import ReceivedEvent
from taskobs.view.storage.masking import MASK, MAX_TEXT, masked, masked_text
from taskobs.view.storage.records import event_record, issue_of, span_of, span_record
from tests.support import demo

SECRET = "hunter2"  # noqa: S105  # what is looked for in what is kept


@pytest.mark.parametrize(
    "text",
    [
        f"connect to amqp://shop:{SECRET}@broker:5672//",
        f"postgresql+psycopg://shop:{SECRET}@db/shop failed",
        f"login with password={SECRET} refused",
        f'{{"api_key": "{SECRET}", "user": "anna"}}',
        f"{{'client_secret': '{SECRET}'}}",
        f"Authorization: Bearer {SECRET}",
        f"authorization=Basic {SECRET}",
        f"https://example.com/?access_token={SECRET}&page=2",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
    ],
)
def test_secrets_in_a_text_are_masked(text: str) -> None:
    """A message, a statement or a log line shows what it says, but not the password in it."""
    shown = masked_text(text)
    assert SECRET not in shown
    assert MASK in shown
    assert masked_text(shown).count(MASK) == shown.count(MASK)


def test_the_key_of_a_dsn_is_masked() -> None:
    """My Sentry project's key is a secret, too."""
    key = "0123456789abcdef" * 2
    assert masked_text(f"sent to https://{key}@sentry.example/1") == (
        f"sent to https://{MASK}@sentry.example/1"
    )


@pytest.mark.parametrize(
    "text",
    [
        "charged order 7",
        "GET https://example.com/orders?page=2",
        "a@b.example",
        "3 tokens used",
        "",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    """What is no secret is not touched."""
    assert masked_text(text) == text


def test_texts_under_secret_names_are_masked_at_any_depth() -> None:
    """A header or a setting whose name says it is not shown; a number is no secret."""
    shown = masked(
        {
            "http.request.header.authorization": [SECRET],
            "db.statement": "SELECT 1",
            "settings": {"SECRET_KEY": SECRET, "inner": [{"password": SECRET}]},
            "gen_ai.usage.input_tokens": 12,
        }
    )
    assert SECRET not in json.dumps(shown)
    assert (shown["db.statement"], shown["gen_ai.usage.input_tokens"]) == ("SELECT 1", 12)


def test_a_long_text_is_cut_and_says_so() -> None:
    """A text of a megabyte does not fill the page."""
    shown = masked_text("x" * (MAX_TEXT + 7))
    assert len(shown) < MAX_TEXT + 100
    assert shown.endswith("[7 more characters]")


@pytest.mark.parametrize(
    "piece", ["x", "token", 'token="', "token = ", "://", "://a", "password ", "bearer ", "token:"]
)
def test_masking_takes_time_by_length_alone(piece: str) -> None:
    """A text that is made to be slow to read is not: its time grows as its length does."""

    def seconds(length: int) -> float:
        text = (piece * length)[:length]
        began = process_time()
        for _ in range(3):
            masked_text(text)
        return process_time() - began

    short, long = seconds(MAX_TEXT // 8), seconds(MAX_TEXT)
    assert long < 40 * short + 0.05


def test_a_span_is_kept_whole() -> None:
    """What has no secrets comes back as it was sent: attributes, events, links."""
    for sent in demo.order():
        assert span_of(span_record(sent).body) == replace(sent, resource={"service.name": ""})


def test_an_event_keeps_its_frames_and_tags_and_no_variables() -> None:
    """I see file, line, function and source of each frame; variables may hold anything."""
    frame = {
        "filename": "shop.py",
        "function": "charge",
        "lineno": 12,
        "in_app": True,
        "pre_context": ["a", "b", "c", "d"],
        "context_line": f'    login(password="{SECRET}")',
        "post_context": ["e"],
        "vars": {"card": SECRET},
    }
    data = {
        "exception": {
            "values": [
                {"type": "KeyError", "value": "'card'"},
                {
                    "type": "CardDeclinedError",
                    "value": "no funds",
                    "stacktrace": {"frames": [{"module": "celery.app"}, frame]},
                },
            ]
        },
        "tags": [["celery.task", "charge"], ["session_token", SECRET]],
        "request": {"cookies": SECRET},
    }
    issue, record = event_record(ReceivedEvent(event_id="e" * 32, data=data))
    assert SECRET not in record.body.decode()
    assert issue == issue_of(record.body)
    assert (issue.title, issue.message) == ("CardDeclinedError", "no funds")
    assert issue.tags == {"celery.task": "charge", "session_token": MASK}
    assert [one.kind for one in issue.exceptions] == ["KeyError", "CardDeclinedError"]
    outer, inner = issue.exceptions[1].frames
    assert (outer.file, outer.line, outer.code) == ("celery.app", None, [])
    assert (inner.file, inner.line, inner.function) == ("shop.py", 12, "charge")
    assert [number for number, _ in inner.code] == [9, 10, 11, 12, 13]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"exception": None, "tags": 7, "contexts": []},
        {"exception": {"values": [None, 3, {"stacktrace": {"frames": [None, {"lineno": "x"}]}}]}},
        {"exception": [{"type": "KeyError"}]},
        {"logentry": {"message": "down"}},
        {"message": {"message": 3}},
    ],
)
def test_an_event_of_any_form_is_read(data: dict[str, object]) -> None:
    """Another SDK's event, or a broken one, is shown as far as it can be read."""
    issue, _ = event_record(ReceivedEvent(event_id="", data=data))
    assert issue.title
