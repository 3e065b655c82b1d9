"""One task, run by the test itself with ``apply()``."""

from __future__ import annotations

import pytest
import shop

from taskobs.testing import Telemetry


def test_a_charge_is_counted(taskobs_telemetry: Telemetry) -> None:
    """The counter of the shop has what was charged."""
    shop.charge_card.apply(args=(1001, 4_500))
    assert taskobs_telemetry.run("shop.charge_card").outcome == "succeeded"
    assert taskobs_telemetry.metric("shop.charged", {"currency": "EUR"}).value == 4_500


def test_a_declined_card_is_one_issue(taskobs_telemetry: Telemetry) -> None:
    """The run fails; its event and its log line have its ids."""
    shop.charge_card.apply(args=(1002, 900_000))

    run = taskobs_telemetry.run("shop.charge_card")
    assert run.outcome == "failed"
    assert str(run.exception) == "shop.CardDeclinedError: over the limit"

    event = taskobs_telemetry.event("shop.charge_card")
    assert event.tags["celery.task_id"] == run.task_id
    assert event.trace_id == run.trace_id

    line = taskobs_telemetry.log("declined the card")
    assert (line.level, line.task_id) == ("WARNING", run.task_id)


def test_the_bank_is_a_span_of_the_run(taskobs_telemetry: Telemetry) -> None:
    """The shop's own span is inside of the run."""
    result = shop.charge_card.apply(args=(1001, 4_500))
    assert taskobs_telemetry.trace_of(result).names == ("run shop.charge_card", "bank.charge")


def test_prices_that_fail_are_no_issue(taskobs_telemetry: Telemetry) -> None:
    """A rule of the app says that this task's failures are no events."""
    shop.refresh_prices.apply()
    assert taskobs_telemetry.run("shop.refresh_prices").outcome == "failed"
    assert taskobs_telemetry.events == ()


@pytest.mark.taskobs(strict=False)
def test_what_is_no_matter_here(taskobs_telemetry: Telemetry) -> None:
    """An event that nobody asks for."""
    shop.charge_card.apply(args=(1002, 900_000))
    assert len(taskobs_telemetry.runs()) == 1
