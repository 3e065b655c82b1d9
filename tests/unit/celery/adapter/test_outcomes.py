from __future__ import annotations

from typing import Any, cast

import pytest
from celery.exceptions import Ignore, Reject, Retry

from taskobs.celery.adapter import outcomes
from taskobs.model import ExternalOutcome, Outcome, Run


class Mute(Exception):  # noqa: N818  # a user's own
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def a_run() -> Run:
    return Run(task="add", name="add", task_id="id-1")


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (Reject(Mute(), requeue=True), Outcome.REJECTED, "Mute"),
        (Reject(ValueError("busy"), requeue=True), Outcome.REJECTED, "busy"),
        (Reject(requeue=True), Outcome.REJECTED, None),
        (Ignore(Mute()), Outcome.IGNORED, "Mute"),
        (Retry(cast("Any", Mute())), Outcome.RETRIED, "Retry"),
        (Retry("later", exc=Mute()), Outcome.RETRIED, "later"),
    ],
)
def test_a_reason_that_can_not_be_told_hides_no_outcome(
    error: Exception, outcome: Outcome, reason: str | None
) -> None:
    """My task rejects with an exception whose `__str__` raises, and I see it as rejected."""
    run = a_run()
    outcomes.apply_exception(None, run, error)
    assert (run.outcome, run.reason) == (outcome, reason)
    assert run.requeued is (outcome is Outcome.REJECTED)


@pytest.mark.parametrize(
    ("external", "ran"),
    [
        (ExternalOutcome(outcome=Outcome.LOST, started=5.0), True),
        (ExternalOutcome(outcome=Outcome.REVOKED, started=5.0), True),
        (ExternalOutcome(outcome=Outcome.LOST), False),
        (ExternalOutcome(outcome=Outcome.REVOKED), False),
        (ExternalOutcome(outcome=Outcome.EXPIRED), False),
        (ExternalOutcome(outcome=Outcome.UNKNOWN), False),
        (ExternalOutcome(outcome=Outcome.UNKNOWN, started=5.0), False),
    ],
)
def test_a_run_that_never_began_is_told_apart(external: ExternalOutcome, *, ran: bool) -> None:
    """What was revoked while it waited did not run; what was terminated did."""
    run = a_run()
    assert run.ran
    outcomes.apply_external_outcome(run, external)
    assert run.ran is ran


def test_a_greenlet_that_is_killed_ran() -> None:
    """A revoke that ends a run on gevent or eventlet leaves its run time."""
    run, greenlet_exit = a_run(), type("GreenletExit", (BaseException,), {})
    assert not outcomes.apply_process_death(run, greenlet_exit())
    assert (run.outcome, run.ran) == (Outcome.REVOKED, True)
