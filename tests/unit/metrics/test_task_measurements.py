"""What tasks measure is kept exactly, whatever they give, and within bounds."""

from __future__ import annotations

import math
from collections.abc import Generator
from threading import Barrier, Thread
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from taskobs import semconv
from taskobs.metrics import task_measurements
from taskobs.metrics.counter_keys import read_key
from taskobs.metrics.counter_memory import CounterMemory
from taskobs.metrics.families import Family
from taskobs.metrics.measured_families import measured_families
from taskobs.metrics.snapshot import Snapshot, pack_snapshot, unpack_snapshot
from taskobs.otel.app.meters import TaskMeters

OVERFLOW = {"otel.metric.overflow": True}


class Shop:
    """A provider whose measurements are kept in memory."""

    def __init__(self) -> None:
        self.memory = CounterMemory()
        self.meters = TaskMeters()
        self.meters.measurements.begin(self.memory.own)
        self.meter = self.meters.get_meter("shop", "2")

    def families(self) -> list[Family]:
        """Give what was measured, as it arrives where it is exported."""
        sums = ((read_key(key), values) for key, values in self.memory.sums().items())
        found = measured_families((key, values) for key, values in sums if key is not None)
        return list(unpack_snapshot(pack_snapshot(Snapshot(since=1, families=found))).families)

    def only(self) -> Family:
        """Give the one instrument that has measured."""
        [family] = self.families()
        return family

    def series(self) -> list[tuple[dict[str, Any], float]]:
        """Give its series."""
        return [(dict(one.labels), one.value) for one in self.only().samples]


@pytest.fixture
def shop() -> Generator[Shop]:
    """Give a provider, and close its memory at the end."""
    made = Shop()
    yield made
    made.memory.close()


def test_a_counter_arrives_with_its_attributes_and_their_types(shop: Shop) -> None:
    """I count orders by kind: the order of attributes makes no difference, their types stay."""
    orders = shop.meter.create_counter("orders", "{order}", "Orders.")
    orders.add(2, {"kind": "gift", "size": 3, "big": True, "share": 0.5})
    orders.add(0.5, {"share": 0.5, "big": True, "size": 3, "kind": "gift"}, None)
    orders.add(1)
    family = shop.only()
    assert (family.name, family.kind, family.unit, family.meaning) == (
        *("orders", "counter", "{order}", "Orders."),
    )
    assert (family.scope, family.scope_version) == ("shop", "2")
    attributes = {"kind": "gift", "size": 3, "big": True, "share": 0.5}
    assert shop.series() == [(attributes, 2.5), ({}, 1)]
    assert [type(value) for value in dict(sorted(attributes.items())).values()] == [
        type(value) for value in family.samples[0].labels.values()
    ]


def test_a_counter_that_may_fall(shop: Shop) -> None:
    """I count what is in stock: the sum falls, and is no rate for a backend."""
    stock = shop.meter.create_up_down_counter("stock")
    stock.add(5)
    stock.add(-2)
    assert (shop.only().kind, shop.series()) == ("updown", [({}, 3)])


@pytest.mark.parametrize(
    ("bounds", "counts"), [([1, 2], [2, 1, 1]), ([2, 1.0, 1], [2, 1, 1]), (["x"], None)]
)
def test_a_histogram(shop: Shop, bounds: Any, counts: list[int] | None) -> None:
    """I time something, in buckets of mine; bounds that are none are OpenTelemetry's."""
    times = shop.meter.create_histogram("time", "s", explicit_bucket_boundaries_advisory=bounds)
    for value in (0.5, 1, 1.5, 9):
        times.record(value)
    [series] = shop.only().distributions
    assert series.total == 12
    assert series.counts == (counts or [0, 3, 1, *[0] * 13])


def test_what_can_not_be_measured_is_left_out(shop: Shop) -> None:
    """A bug of mine gives nonsense: my task goes on, and what was right stays right."""
    orders, times = shop.meter.create_counter("orders"), shop.meter.create_histogram("time")
    nonsense: list[Any] = [-1, math.nan, math.inf, "x", None, [1], 10**400]
    for amount in nonsense:
        orders.add(amount)
        times.record(amount)
    attributes: list[Any] = [3, [1], "x"]
    for one in attributes:
        orders.add(1, one)
    orders.add(1)
    assert shop.series() == [({}, 1)]


def test_a_time_limit_that_strikes_here_reaches_the_task(shop: Shop) -> None:
    """My task's soft time limit passes while it measures: the task is told, as anywhere else."""

    class Struck(dict[str, str]):
        def items(self) -> Any:
            raise SoftTimeLimitExceeded

    orders, times = shop.meter.create_counter("orders"), shop.meter.create_histogram("time")
    for measure in (orders.add, times.record):
        with pytest.raises(SoftTimeLimitExceeded):
            measure(1, Struck(kind="gift"))
    orders.add(1)
    assert shop.series() == [({}, 1)]


def test_attributes_of_any_kind_are_made_to_fit(shop: Shop) -> None:
    """Lists, objects, huge numbers and broken text are written as text, and not for ever long."""
    orders = shop.meter.create_counter("orders")
    given: dict[Any, Any] = {"a": [1, 2], "b": 10**30, "c": "\ud800", "d": "x" * 999, 5: None}
    orders.add(1, given)
    orders.add(1, given)
    [(labels, value)] = shop.series()
    assert value == 2
    assert labels.keys() == {"a", "b", "c", "d", "5"}
    assert labels["b"] == str(10**30)
    assert len(labels["d"]) == 255
    orders.add(1, {str(number): number for number in range(100)})
    assert [len(labels) for labels, _ in shop.series()] == [5, 32]


def test_sets_of_attributes_are_bounded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """I put the id of a customer into an attribute: the sum is right, and memory has an end."""
    monkeypatch.setattr(task_measurements, "MAX_SERIES", 3)
    orders = shop.meter.create_counter("orders")
    for number in range(20):
        orders.add(1, {"customer": number % 10})
    found = shop.series()
    assert [value for _, value in found] == [2, 2, 2, 14]
    assert found[-1][0] == OVERFLOW


def test_one_counter_without_bounds_spoils_no_other(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One counter of mine has the ids of customers: those of another have their own attributes."""
    monkeypatch.setattr(task_measurements, "MAX_SERIES", 3)
    visits, orders = shop.meter.create_counter("visits"), shop.meter.create_counter("orders")
    for number in range(20):
        visits.add(1, {"customer": number})
    for _ in range(20):
        orders.add(1, {"kind": "gift"})
    found = {family.name: family.samples for family in shop.families()}
    assert [(dict(one.labels), one.value) for one in found["orders"]] == [({"kind": "gift"}, 20)]
    assert sum(one.value for one in found["visits"]) == 20


def test_a_full_memory_loses_no_count(shop: Shop) -> None:
    """Histograms of many attributes fill a process's memory: the rest has a place of its own."""
    times, orders = shop.meter.create_histogram("time"), shop.meter.create_counter("orders")
    for number in range(1_500):
        times.record(1, {"customer": f"{number}"})
    orders.add(1)
    found = {family.name: family for family in shop.families()}
    counts = [sum(one.counts) for one in found["time"].distributions]
    assert sum(counts) == 1_500
    assert counts[-1] > 100
    assert found["time"].distributions[-1].labels == OVERFLOW
    assert found["orders"].samples[0].value == 1


def test_an_instrument_that_is_made_anew_is_the_same(shop: Shop) -> None:
    """My task makes its counter in its body: it is one counter, and takes memory once."""
    for _ in range(5_000):
        shop.meters.get_meter("shop", "2").create_counter("orders").add(1)
    assert shop.series() == [({}, 5_000)]
    process = shop.meters.measurements.process()
    assert process is not None
    assert len(process.indexes) == len(process.series) == 1


def test_threads_measure_together(shop: Shop) -> None:
    """Threads of one process measure: none overwrites what another has."""
    orders, times = shop.meter.create_counter("orders"), shop.meter.create_histogram("time")

    def measure(name: str) -> None:
        for number in range(5_000):
            orders.add(1, {"kind": str(number % 7)})
            times.record(1)
        orders.add(1, {"thread": name})

    threads = [Thread(target=measure, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {family.name: family for family in shop.families()}
    assert sum(one.value for one in found["orders"].samples) == 4 * 5_001
    assert [sum(one.counts) for one in found["time"].distributions] == [20_000]


def test_threads_that_measure_first_have_one_place() -> None:
    """Tasks of a thread pool begin at the same time: each count goes to its own counter."""
    names = [f"of thread {number}" for number in range(4)]
    for _ in range(30):
        shop, begin = Shop(), Barrier(len(names))
        threads = [Thread(target=measure_with_others, args=(shop, begin, name)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = {family.name: [one.value for one in family.samples] for family in shop.families()}
        shop.memory.close()
        assert found == {name: [50] for name in names}


def measure_with_others(shop: Shop, begin: Barrier, name: str) -> None:
    counter = shop.meter.create_counter(name)
    begin.wait()
    for _ in range(50):
        counter.add(1)


def test_nothing_is_kept_before_and_after(shop: Shop) -> None:
    """Measuring costs little where nobody exports it."""
    orders = shop.meter.create_counter("orders")
    shop.meters.measurements.end()
    orders.add(1)
    assert not shop.meters.measurements.on
    assert not shop.families()


def test_each_run_has_one_histogram_of_its_time(shop: Shop) -> None:
    """OpenTelemetry's histogram of runs is not sent beside celery.task.duration."""
    shop.meter.create_histogram(semconv.STOCK_HISTOGRAM).record(1)
    shop.meter.create_observable_gauge("temperature", [lambda _: []])
    assert not shop.families()
