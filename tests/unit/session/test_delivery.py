"""The end of a process: what is pending is sent in bounded time, and what is not is said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event

import pytest

from taskobs.session.delivery import Delivery

UNSENT = "ends with telemetry unsent: no answer within 0.2 s"


class NoRelay:
    """A process without a relay."""

    carries = False

    def flush(self, timeout: float) -> bool:
        return timeout >= 0

    end = flush


def ended(flush: Callable[[float], object], log: pytest.LogCaptureFixture) -> str:
    """End a process whose exports are one flush, which gets its timeout; give what is logged."""
    delivery = Delivery(lambda timeout: [lambda: flush(timeout)], NoRelay(), 0.2)
    with log.at_level(logging.WARNING, "taskobs"):
        delivery.end()
    return log.text


def test_a_flush_that_gives_up_at_its_timeout_has_not_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """My collector hangs, and the SDK itself gives up in time: I am told that telemetry is lost."""

    def flush(timeout: float) -> bool:
        return Event().wait(int(timeout * 1_000) / 1_000)  # nobody sets it

    assert UNSENT in ended(flush, caplog)


def test_a_flush_that_does_not_heed_its_timeout_has_not_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """My collector hangs, and so does the flush: the process ends in time all the same."""
    released = Event()
    try:
        assert UNSENT in ended(lambda _: released.wait(), caplog)
    finally:
        released.set()


@pytest.mark.parametrize("answer", [True, False, None])
def test_a_flush_that_returns_at_once_leaves_nothing_to_say(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    """All is sent; the SDK says False of an exporter that has been shut down before."""
    assert ended(lambda _: answer, caplog) == ""
