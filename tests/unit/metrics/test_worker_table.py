"""What a worker counts is bounded, and each end of a delivery is counted once."""

from __future__ import annotations

import time
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry

from taskobs.celery.counting.delivery_count import DeliveryCount
from taskobs.celery.counting.traced import Figures
from taskobs.metrics import worker_table
from taskobs.metrics.histogram import OTHER
from taskobs.metrics.worker_families import Gauges, families_of
from taskobs.metrics.worker_table import Ended, PublishTable, TaskSeries, WorkerTable
from taskobs.model import ExternalOutcome, Outcome

FIGURES = Figures("succeeded", 0.2, 0.1, None, False, 0)  # noqa: FBT003  # a tuple of the wire


def delivery(table: WorkerTable, **fields: Any) -> DeliveryCount:
    """Have a message received, with fields of its request."""
    return DeliveryCount(
        table.of_task("pay"), "celery", fields, SimpleNamespace(throws=(KeyError,))
    )


def only(table: WorkerTable) -> TaskSeries:
    [series] = table.series.values()
    return series


def outcomes(table: WorkerTable) -> dict[str, int]:
    return {name: sum(one.counts) for name, one in only(table).durations.items()}


def test_names_of_tasks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that makes up tasks does not make a series of each."""
    monkeypatch.setattr(worker_table, "MAX_TASKS", 3)
    table = WorkerTable()
    for number in range(10):
        table.of_task(f"task {number}").received("celery")
    table.of_task("task 0").received("celery")
    found = {series.task: series.received for series in table.series.values()}
    assert found == {"task 0": 2, "task 1": 1, "task 2": 1, OTHER: 7}


def test_combinations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tasks in many queues make so many series and no more."""
    monkeypatch.setattr(worker_table, "MAX_SERIES", 2)
    table = WorkerTable()
    counts = [table.of_task("pay").received(queue) for queue in ("a", "b", "c", "d", "c")]
    found = {key: series.received for key, series in table.series.items()}
    assert found == {("pay", "a"): 1, ("pay", "b"): 1, (OTHER, OTHER): 3}
    counts[-1].succeeded(0.1, 0.1, 0)  # its CPU time, too, has a place
    assert table.cpu_times[OTHER] == 0.1


def test_types_of_errors_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that makes up exception classes does not make a series of each."""
    monkeypatch.setattr(worker_table, "MAX_ERRORS", 1)
    table = WorkerTable()
    series = table.of_task("pay").received("celery")
    for name in ("A", "B", "C", "A"):
        series.ended(Ended("failed", 0.1, error=name))
    assert series.failures == {("A", False): 2, (OTHER, False): 2}


def test_series_of_failures_and_publishes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tasks fail in many ways, and are published to many queues: the sums are right."""
    monkeypatch.setattr(worker_table, "MAX_SERIES", 3)
    table, publishes = WorkerTable(), PublishTable()
    for task in "abc":
        series = table.of_task(task).received("celery")
        for error in ("A", "B", "A"):
            series.ended(Ended("failed", 0.1, error=error))
        for queue in "xyx":
            publishes.add(publishes.key(task, queue, ""))
    failures = [one.failures for one in table.series.values()]
    assert failures[0] == {("A", False): 2, ("B", False): 1}
    assert sum(number for found in failures for number in found.values()) == 9
    assert sum(error != OTHER for found in failures for error, _ in found) == 3
    assert publishes.counts == {
        ("a", "x", ""): 2,
        ("a", "y", ""): 1,
        ("b", "x", ""): 2,
        (OTHER, OTHER, ""): 4,
    }


@pytest.mark.parametrize(
    ("error", "outcome", "expected"),
    [
        (Retry(), "retried", False),
        (Reject(), "rejected", False),
        (Ignore(), "ignored", False),
        (ValueError(), "failed", False),
        (KeyError(), "failed", True),
    ],
)
def test_what_an_exception_amounts_to(
    error: BaseException,
    outcome: str,
    expected: bool,  # noqa: FBT001  # pytest gives it
) -> None:
    """My pool process says no more than the exception: it is counted as what it is."""
    table = WorkerTable()
    count = delivery(table)
    count.began(time.monotonic())
    count.failed(error)
    assert outcomes(table) == {outcome: 1}
    failures = {(type(error).__name__, expected): 1} if outcome == "failed" else {}
    assert only(table).failures == failures
    assert only(table).retries == (outcome == "retried")


def test_an_end_is_counted_once() -> None:
    """Celery says several times that a run ended: the first time counts."""
    table = WorkerTable()
    count = delivery(table)
    count.began(time.monotonic())
    lost = ExternalOutcome(outcome=Outcome.LOST, error=ValueError(), started=1.0)
    count.reported(lost)
    count.reported(lost)
    count.failed(ValueError())
    count.succeeded()
    count.brought((0, "", 0.1), FIGURES, with_cpu=True)
    assert outcomes(table) == {"lost": 1}
    assert only(table).failures == {("ValueError", False): 1}


def test_what_never_ran_took_no_time() -> None:
    """A task that is revoked or has expired is counted, and makes the others look no quicker."""
    table = WorkerTable()
    for outcome in (Outcome.REVOKED, Outcome.EXPIRED, Outcome.EXPIRED):
        delivery(table).reported(ExternalOutcome(outcome=outcome))
    undecodable = ExternalOutcome(outcome=Outcome.UNKNOWN, started=1.0)
    delivery(table).reported(undecodable)
    assert outcomes(table) == {}
    assert only(table).discarded == {"revoked": 1, "expired": 2, "unknown": 1}
    assert only(table).received == 4


@pytest.mark.parametrize(
    ("figures", "seconds"), [(FIGURES, 0.2), (None, 0.7)], ids=["all", "Celery's alone"]
)
def test_a_success_with_and_without_figures(figures: Figures | None, seconds: float) -> None:
    """A pool process without taskobs brings what Celery brings: it is counted all the same."""
    table = WorkerTable()
    count = delivery(table)
    count.began(time.monotonic())
    count.brought((0, "", 0.7), figures, with_cpu=True)
    assert outcomes(table) == {"succeeded": 1}
    assert only(table).durations["succeeded"].total == seconds


@pytest.mark.parametrize("published", ["-1", "1e3", "nan", 3, None, "99999999999999", ["1"]])
def test_a_time_of_publish_that_is_none_is_left_out(published: object) -> None:
    """Whoever sends a message chooses its headers: nonsense is no wait, and breaks nothing."""
    table = WorkerTable()
    count = delivery(table, **{"taskobs-published-at": published, "eta": published})
    count.began(time.monotonic())
    assert only(table).queue_wait is None
    assert sum(table.prefetch_waits["celery"].counts) == 1


def test_waits_count_from_the_eta() -> None:
    """I send a task for later: what it waits until then is no wait."""
    table, now = WorkerTable(), time.time()
    eta = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now - 1))
    count = delivery(table, **{"taskobs-published-at": f"{now - 500:.3f}", "eta": eta})
    count.began(time.monotonic() + 50)
    waits, prefetched = only(table).queue_wait, table.prefetch_waits["celery"]
    assert waits is not None
    assert 40 < waits.total < 60
    assert 40 < prefetched.total < 60


def test_threads_count_together() -> None:
    """My pool runs threads: none overwrites what another has counted."""
    table = WorkerTable()
    counts = table.of_task("pay")

    def work() -> None:
        for _ in range(20_000):
            counts.received("celery").succeeded(0.2, 0.0, 0)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert only(table).received == 80_000
    assert outcomes(table) == {"succeeded": 80_000}


def test_every_series_has_a_name_of_its_own() -> None:
    """What I read on a dashboard is never two things at once."""
    table = WorkerTable()
    series = table.of_task("pay").received("celery")
    series.began(0.1, 0.1)
    series.succeeded(0.2, 0.1, 7)
    series.ended(Ended("failed", 0.2, error="ValueError", expected=True))
    series.ended(Ended("retried", 0.2))
    series.discard("expired")
    table.unknown_message("celery")
    table.process_exited("signal")
    gauges = Gauges({"active": 1}, 4, 16, {"pay": 1.0}, {"main": 1}, 1.0)
    families = families_of(table, gauges)
    assert len({family.name for family in families}) == len(families)
    for family in families:
        labels = [one.labels for one in family.samples]
        labels += [one.labels for one in family.distributions]
        assert labels, family.name
        assert len({frozenset(one.items()) for one in labels}) == len(labels)


def test_the_oldest_run_of_an_idle_task_is_0_seconds_old() -> None:
    """My tasks are short: what is stuck is a line at 0 all the time, and no gap."""
    table = WorkerTable()
    for name in ("quick", "slow"):
        table.of_task(name).received("celery")
    families = families_of(table, Gauges(oldest={"slow": 4.0}))
    [found] = [one for one in families if one.name == "celery.worker.active.oldest"]
    assert {one.labels["celery.task_name"]: one.value for one in found.samples} == {
        "quick": 0.0,
        "slow": 4.0,
    }
