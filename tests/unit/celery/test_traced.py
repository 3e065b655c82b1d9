"""What a run's own process knows of it goes to the main process with Celery's result."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from celery.app import trace

from taskobs.celery.counting import traced
from taskobs.celery.counting.traced import RunFigures, left_by, split
from taskobs.model import Outcome, Run, SpanAddress


def run_ending(outcome: Outcome | None, *, raises: BaseException | None = None, **more: Any) -> Any:
    """Stand for Celery's function that runs a task, of which observers see the end."""

    def celerys(_: object, uuid: str) -> tuple[int, str, float | None]:
        run = Run(task="pay", task_id=uuid, **{k: v for k, v in more.items() if k == "eager"})
        run.outcome = outcome
        run.exception = more.get("exception")
        run.expected = bool(more.get("expected"))
        run.span = more.get("span")
        if outcome is not None:
            RunFigures().ended(run)
        if raises is not None:
            raise raises
        succeeded = outcome is Outcome.SUCCEEDED
        return (0, "text", 0.7) if succeeded else (1, "einfo", None)

    return celerys


def test_a_success_has_celerys_own_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """My dashboards and Celery's log say the same of how long it took."""
    span = SpanAddress(7, 8, sampled=True)
    monkeypatch.setattr(trace, "fast_trace_task", run_ending(Outcome.SUCCEEDED, span=span))
    result, figures = split(traced.traced_fast(None, "id"))
    assert result == (0, "text", 0.7)
    assert figures is not None
    assert figures[:2] == ("succeeded", 0.7)
    assert figures[3:] == (None, False, 7)


def test_a_failure_is_what_the_observers_made_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's result says too little: the type, whether it was expected, and how long it took."""
    failing = run_ending(Outcome.FAILED, exception=KeyError("x"), expected=True)
    monkeypatch.setattr(trace, "trace_task_ret", failing)
    brought = traced.traced(None, "id")
    assert split(pickle.loads(pickle.dumps(brought))) == split(brought)  # noqa: S301  # ours
    result, figures = split(brought)
    assert result == (1, "einfo", None)
    assert figures is not None
    outcome, seconds, _, error, expected, trace_id = figures
    assert (outcome, error, expected, trace_id) == ("failed", "KeyError", True, 0)
    assert 0 <= seconds < 60


@pytest.mark.parametrize("outcome", [None, Outcome.FAILED], ids=["unobserved", "eager"])
def test_without_a_record_celerys_result_has_to_do(
    outcome: Outcome | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody observes, or an eager run has the same id: the main process takes what Celery says."""
    monkeypatch.setattr(trace, "trace_task_ret", run_ending(outcome, eager=True))
    assert split(traced.traced(None, "id")) == ((1, "einfo", None), None)
    assert not traced._runs  # pyright: ignore[reportPrivateUsage]  # a look inside


def test_a_run_that_ends_its_greenlet_leaves_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """A revoke ends the greenlet of my run: it is counted as what the observers saw."""
    dying = run_ending(Outcome.REVOKED, raises=SystemExit())
    monkeypatch.setattr(trace, "trace_task_ret", dying)
    with pytest.raises(SystemExit):
        traced.traced(None, "id")
    figures = left_by("id")
    assert figures is not None
    assert figures[0] == "revoked"
    assert left_by("id") is None


def test_what_fails_outside_of_a_run_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message can't be decoded: Celery says so, and nothing is kept."""
    monkeypatch.setattr(trace, "trace_task_ret", run_ending(None, raises=ValueError()))
    with pytest.raises(ValueError, match=r"^$"):
        traced.traced(None, "id")
    assert left_by("id") is None


@pytest.mark.parametrize("brought", [(0, "x", 0.1), SimpleNamespace(exception=None), None])
def test_what_others_bring_is_left_as_it_is(brought: object) -> None:
    """A pool's own failures, and results of processes without taskobs, pass through."""
    assert split(brought) == (brought, None)
