"""What an envelope is made fit for before it is sent."""

from __future__ import annotations

import json
import logging

import pytest
import sentry_sdk

from taskobs.sentry.outgoing import MAX_EVENT
from tests.support.sentry import user_init
from tests.unit.sentry.test_pipeline import clean as clean  # noqa: PLC0414  # a fixture
from tests.unit.sentry.test_pipeline import pipeline


def test_lone_surrogates_become_question_marks() -> None:
    """A name that is not UTF-8 arrives, and so does an emoji, whose halves are a pair."""
    kept = user_init()
    with pipeline():
        sentry_sdk.capture_message("caf\udce9 \U0001f600", tags={"k\ud800": "v\udfff"})
    (event,) = kept.events
    assert event["message"] == "caf? \U0001f600"
    assert event["tags"] == {"k?": "v?"}


def test_an_event_is_cut_once_said(caplog: pytest.LogCaptureFixture) -> None:
    """Two events of megabytes arrive, cut; the log has one line about it."""
    kept = user_init(max_value_length=10_000_000)
    with caplog.at_level(logging.WARNING, "taskobs"), pipeline():
        for _ in range(2):
            sentry_sdk.capture_message("x" * 3_000_000)
    assert len(kept.events) == 2
    for event in kept.events:
        assert len(json.dumps(event)) <= MAX_EVENT
        assert event["message"].startswith("xxx")
    assert caplog.text.count("was cut to") == 1
    assert "further events are cut without a log line" in caplog.text


def test_after_close_nothing_is_changed() -> None:
    """After `close()` my transport is called as before."""
    kept = user_init()
    with pipeline():
        assert "capture_envelope" in vars(kept)
    assert "capture_envelope" not in vars(kept)
