# What these tests look at has no public name.
# pyright: reportPrivateUsage=false
from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError

from taskobs.celery.patches.request import _watched
from taskobs.model import ExternalOutcome, Outcome

STARTED = 1_700_000_000.0


class Base:
    """A request as Celery has it, of a run that is under way in a pool child."""

    def __init__(self, message: object) -> None:
        self.request_dict: dict[str, Any] = {"message": message}

    acknowledged = False
    time_start = STARTED
    worker_pid = 7
    _already_revoked = False
    stored: object = False

    def on_accepted(self, _pid: int, accepted: float) -> None:
        self.time_start = time.time() - (time.monotonic() - accepted)

    def on_failure(self, exc_info: Any, **_: Any) -> None:
        if isinstance(exc_info.exception, WorkerLostError):
            self._success_was_stored()

    def _success_was_stored(self) -> object:
        return self.stored

    def _announce_cancelled(self, emit_retry: bool = True) -> None: ...  # noqa: FBT001, FBT002

    def cancel(self, **given: bool) -> None:
        self._announce_cancelled(**given)


@pytest.fixture
def told() -> list[ExternalOutcome]:
    return []


@pytest.fixture
def request_of_a_run(told: list[ExternalOutcome]) -> Any:
    def ended(_: Any, external: ExternalOutcome) -> None:
        told.append(external)

    return _watched(Base, ended, None, inline=False)(None)


def failed(error: BaseException) -> Any:
    return SimpleNamespace(exception=error)


@pytest.mark.parametrize("stored", [False, {"status": "SUCCESS"}])
def test_a_dead_child_is_a_lost_run_unless_the_run_had_succeeded(
    request_of_a_run: Any, told: list[ExternalOutcome], stored: object
) -> None:
    """Whatever Celery makes of a run whose child died, I hear the same."""
    request_of_a_run.stored = stored
    lost = WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL) Job: 3.")
    request_of_a_run.on_failure(failed(lost))
    assert [one.outcome for one in told] == ([] if stored else [Outcome.LOST])


@pytest.mark.parametrize("days", [-3, 0, 3])
def test_a_clock_that_is_set_makes_no_lost_run_of_days(
    request_of_a_run: Any,
    told: list[ExternalOutcome],
    monkeypatch: pytest.MonkeyPatch,
    days: int,
) -> None:
    """The time server sets my clock while a task runs, then its child dies: it ran for seconds."""
    request_of_a_run.on_accepted(7, time.monotonic() - 5.0)
    now = time.time() + days * 86_400
    monkeypatch.setattr("time.time", lambda: now)
    request_of_a_run.on_failure(failed(WorkerLostError("gone")))
    [external] = told
    assert external.started is not None
    assert 5.0 <= now - external.started < 60.0


def test_a_dead_child_is_reported_also_when_celery_breaks(
    request_of_a_run: Any, told: list[ExternalOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """My result backend is away when a child dies, and I hear of that run all the same."""

    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("no backend")

    monkeypatch.setattr(Base, "on_failure", away)
    with pytest.raises(ConnectionError):
        request_of_a_run.on_failure(failed(WorkerLostError("gone")))
    assert [one.outcome for one in told] == [Outcome.LOST]


@pytest.mark.parametrize(
    ("acknowledged", "given", "outcome"),
    [
        (False, {}, Outcome.RETRIED),  # before Celery 5.6
        (False, {"emit_retry": True}, Outcome.RETRIED),
        (False, {"emit_retry": False}, Outcome.LOST),
        (True, {"emit_retry": True}, Outcome.LOST),
        (True, {}, Outcome.LOST),
    ],
)
def test_a_cancelled_run_is_retried_if_its_message_goes_back(
    request_of_a_run: Any,
    told: list[ExternalOutcome],
    acknowledged: bool,  # noqa: FBT001  # a parameter
    given: dict[str, bool],
    outcome: Outcome,
) -> None:
    """Celery ends a run: I see whether it will come again, and of no failure beside."""
    request_of_a_run.acknowledged = acknowledged
    request_of_a_run.cancel(**given)
    request_of_a_run._already_cancelled = True
    request_of_a_run.on_failure(failed(WorkerLostError("terminated")))
    reason = "cancelled by Celery"
    assert told == [ExternalOutcome(outcome=outcome, started=STARTED, pid=7, reason=reason)]
