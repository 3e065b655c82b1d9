"""Several tasks, run by a worker in a thread of the test process."""

from __future__ import annotations

import pytest
import shop

from taskobs.testing import Telemetry


@pytest.mark.usefixtures("celery_session_worker")
def test_an_order_is_one_trace(taskobs_telemetry: Telemetry) -> None:
    """Whatever follows from the order has run when the test asks for its trace."""
    result = shop.place_order.delay(1001, 4_500)
    assert (
        taskobs_telemetry.trace_of(result).tree
        == """\
publish shop.place_order
  run shop.place_order
    publish shop.charge_card
      run shop.charge_card
        bank.charge
    publish shop.book_carrier
      run shop.book_carrier
      publish shop.book_carrier
      run shop.book_carrier"""
    )


@pytest.mark.usefixtures("celery_session_worker")
def test_the_carrier_is_asked_again(taskobs_telemetry: Telemetry) -> None:
    """A retry is a run of its own."""
    shop.book_carrier.delay(1001)
    first, second = taskobs_telemetry.runs("shop.book_carrier")
    assert (first.outcome, first.attempt) == ("retried", 1)
    assert (second.outcome, second.attempt) == ("succeeded", 2)
    assert taskobs_telemetry.metric("celery.task.retries").value == 1


@pytest.mark.usefixtures("celery_session_worker")
def test_an_order_is_published(taskobs_telemetry: Telemetry) -> None:
    """A message for later is a publish, and no run yet."""
    shop.place_order.apply_async(args=(1001, 4_500), countdown=3_600)
    published = taskobs_telemetry.publish("shop.place_order")
    assert published.queue == "celery"
    assert published.eta
    assert taskobs_telemetry.runs() == ()  # nobody waits an hour
