"""A backend that refuses has no answer under way that its sender has not seen."""

from __future__ import annotations

import threading
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest
import requests

from tests.live.chaos import backend as backends
from tests.live.chaos.backend import TRACES, FaultyBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

OK, BUSY, REFUSED = HTTPStatus.OK, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE
PATIENCE = 60.0


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyBackend]:
    """Give a backend to which nobody sends events."""
    monkeypatch.setattr(backends, "ASKS_AGAIN", {TRACES: PATIENCE})
    with FaultyBackend() as backend:
        yield backend


def send_spans(backend: FaultyBackend) -> int:
    """Send an empty batch; return the status of the answer."""
    sent = {"Content-Type": "application/x-protobuf"}
    answer = requests.post(backend.endpoint + TRACES, headers=sent, timeout=PATIENCE)
    return answer.status_code


@pytest.mark.parametrize("busy", [False, True], ids=["accepting", "busy"])
def test_it_waits_until_its_last_success_was_seen(backend: FaultyBackend, *, busy: bool) -> None:
    """A relay that is killed then has noted what was accepted, so the next sends it no more."""
    assert send_spans(backend) == OK
    if busy:
        backend.retry_after = 1
        backend.apply()
    before: list[list[int]] = []

    def refuse() -> None:
        backend.refuse()
        before.append(backend.statuses)

    thread = threading.Thread(target=refuse)
    thread.start()
    thread.join(0.2)  # as good as none, where it waits
    while send_spans(backend) != REFUSED:
        pass
    thread.join(PATIENCE)
    assert before
    assert before[0][-1] != OK


def test_it_does_not_wait_for_a_sender_that_is_to_stay_away(backend: FaultyBackend) -> None:
    """One that was told to ask later has seen the success before that."""
    assert send_spans(backend) == OK
    backend.retry_after = 1
    backend.apply()
    assert send_spans(backend) == BUSY
    backend.refuse()
    assert backend.statuses == [OK, BUSY]
