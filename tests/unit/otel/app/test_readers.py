"""The app's own metric readers: which of them a worker counts for, and what stays as it is."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Generator
from inspect import signature
from operator import attrgetter
from typing import Any

import pytest
import requests
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
    OTLPMetricExporter as GrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import Counter, Histogram, Meter, MeterProvider, UpDownCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    InMemoryMetricReader,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource
from requests.auth import HTTPBasicAuth

from taskobs.metrics.counter_keys import read_key
from taskobs.metrics.counter_memory import CounterMemory
from taskobs.metrics.families import Family
from taskobs.metrics.measured_families import measured_families
from taskobs.metrics.task_measurements import TaskMeasurements
from taskobs.otel.app import _metrics_compat as compat
from taskobs.otel.app.reader_settings import of_worker, settings_of_reader
from taskobs.otel.app.readers import AppReaders
from taskobs.protocol.frames import unpack
from tests.unit.otel.app.test_provider import FROM_1_40, session

ENDPOINT = "http://127.0.0.1:9/v1/metrics"
OWN = Resource({"service.name": "own"})
DELTA, CUMULATIVE = AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE
DELTAS: dict[Any, AggregationTemporality] = {
    Counter: DELTA,
    Histogram: DELTA,
    UpDownCounter: CUMULATIVE,
}
HOUR = 3_600_000.0
ADVISORY = "explicit_bucket_boundaries_advisory"
SIZES = ExplicitBucketHistogramAggregation([1, 2])
SIZE = View(instrument_name="size", aggregation=SIZES)


def reader(exporter: Any = None, **options: Any) -> PeriodicExportingMetricReader:
    """Make a reader that exports nothing of its own accord."""
    given = exporter or OTLPMetricExporter(ENDPOINT, **options)
    return PeriodicExportingMetricReader(given, export_interval_millis=HOUR)


def settings(one: MetricReader, resource: Resource = OWN) -> dict[str, Any]:
    packed = settings_of_reader(one, resource)
    assert packed is not None
    found: dict[str, Any] = unpack(packed)
    return found


class Worker:
    """An app's provider, and the memory in which a worker counts for its readers."""

    def __init__(self) -> None:
        self.memory = CounterMemory()
        self.measurements = TaskMeasurements()
        self.measurements.begin(self.memory.own)
        self.readers = AppReaders(self.measurements, self.memory.readers.number)
        self.providers: list[MeterProvider] = []

    def provider(self, *readers: MetricReader, **options: Any) -> MeterProvider:
        made = MeterProvider(readers, resource=OWN, shutdown_on_exit=False, **options)
        self.providers.append(made)
        return made

    def counted(self, number: int = 1) -> dict[str, Family]:
        """Give what is counted for a reader, by name."""
        sums = ((read_key(key), values) for key, values in self.memory.sums().items())
        found = measured_families(((k, v) for k, v in sums if k is not None), number)
        return {family.name: family for family in found}

    def values(self, number: int = 1) -> dict[str, list[float]]:
        """Give its counters."""
        return {
            name: [one.value for one in family.samples]
            for name, family in self.counted(number).items()
            if family.samples
        }


@pytest.fixture
def worker() -> Generator[Worker]:
    made = Worker()
    yield made
    made.readers.restore()
    for provider in made.providers:
        for one in compat.storages_of(provider):
            vars(one)["_receive_metrics"] = ignored  # nobody listens there
        provider.shutdown()
    made.memory.close()


def ignored(*_: object, **__: object) -> None: ...


def shut_down(one: Any) -> None:
    one.shutdown()


def exported_by(one: MetricReader) -> set[str]:
    """Name what a reader exports itself."""
    found: list[str] = []

    def receive(data: Any, **_: object) -> None:
        scopes = (scope for of in data.resource_metrics for scope in of.scope_metrics)
        found.extend(metric.name for scope in scopes for metric in scope.metrics)

    vars(one)["_receive_metrics"] = receive
    one.collect()
    del vars(one)["_receive_metrics"]
    return set(found)


# What a relay can replace.


def test_the_settings_of_a_reader_over_http() -> None:
    """The relay exports with all that I gave to my exporter and reader."""
    exporter = OTLPMetricExporter(
        ENDPOINT,
        headers={"x-key": "secret"},
        timeout=3,
        compression=Compression.Gzip,
        certificate_file="/tmp/ca.pem",  # noqa: S108  # only its name
        preferred_temporality=DELTAS,
    )
    given = PeriodicExportingMetricReader(exporter, export_interval_millis=1500)
    found = settings(given)
    sent = found.pop("exporter")
    assert found == {
        "interval": 1.5,
        "delta": True,
        "schema_url": "",
        "resource": {"service.name": "own"},
    }
    assert (sent["protocol"], sent["endpoint"]) == ("http/protobuf", ENDPOINT)
    assert sent["headers"]["x-key"] == "secret"
    assert (sent["timeout"], sent["compression"]) == (3.0, "gzip")
    assert sent["certificate_file"] == "/tmp/ca.pem"  # noqa: S108  # same
    shut_down(given)


@FROM_1_40
def test_the_settings_of_a_reader_over_grpc() -> None:
    """The same over gRPC without TLS."""
    given = reader(GrpcExporter("http://127.0.0.1:9", insecure=True, headers={"x-key": "secret"}))
    sent = settings(given)["exporter"]
    assert (sent["protocol"], sent["insecure"]) == ("grpc", True)
    assert sent["headers"]["x-key"] == "secret"
    assert not settings(given)["delta"]
    shut_down(given)


class OwnReader(PeriodicExportingMetricReader):
    """A subclass, which may do anything."""


class OwnExporter(OTLPMetricExporter):
    """The same."""


def patched() -> MetricReader:
    given = OTLPMetricExporter(ENDPOINT)
    vars(given)["export"] = ignored
    return reader(given)


def ended() -> MetricReader:
    given = reader()
    shut_down(given)
    return given


LEFT_ALONE: dict[str, Callable[[], MetricReader]] = {
    "reader": lambda: OwnReader(OTLPMetricExporter(ENDPOINT), export_interval_millis=HOUR),
    "exporter": lambda: reader(OwnExporter(ENDPOINT)),
    "console": lambda: reader(ConsoleMetricExporter()),
    "in memory": InMemoryMetricReader,
    "session": lambda: reader(session=session(auth=HTTPBasicAuth("me", "secret"))),
    "secure gRPC": lambda: reader(GrpcExporter(endpoint="https://127.0.0.1:9")),
    "patched": patched,
    "only when flushed": lambda: PeriodicExportingMetricReader(
        OTLPMetricExporter(ENDPOINT), export_interval_millis=math.inf
    ),
    "a mixture": lambda: reader(preferred_temporality={Counter: DELTA}),
    "deltas of what may fall": lambda: reader(
        preferred_temporality={**DELTAS, UpDownCounter: DELTA}
    ),
    "ended": ended,
}


@pytest.mark.parametrize("what", LEFT_ALONE)
def test_what_a_worker_does_not_count_for(worker: Worker, what: str) -> None:
    """My own subclass, session or credentials goes on exporting, as only it knows how."""
    given = LEFT_ALONE[what]()
    assert settings_of_reader(given, OWN) is None
    provider = worker.provider(given)
    before = compat.storages_of(provider)
    worker.readers.take_over(provider)
    assert compat.storages_of(provider) == before
    assert worker.memory.readers.all() == []
    if what == "ended":
        worker.providers.clear()
    elif what != "in memory":
        shut_down(given)
        worker.providers.clear()


def test_processes_with_the_same_reader_are_one_reader() -> None:
    """Each child sets its own provider, with its process in the resource: one set of series."""
    pid = os.getpid()
    random = "5f0c1f1e-9c3a-4bb4-8e0b-0d5b3ad3c1a1"
    ours = {"service.name": "own", "deployment.environment.name": "test", "shard": 3}
    for instance in (random, f"host-{pid}"):
        of_process = {"process.pid": pid, "worker": pid, "service.instance.id": instance}
        assert of_worker({**ours, **of_process}) == ours
    kept = {**ours, "service.instance.id": "web-one", "process.runtime.name": "cpython"}
    assert of_worker(kept) == kept


def test_an_instance_of_the_variable_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """I name the instance in OTEL_RESOURCE_ATTRIBUTES: it is my choice, even if it is a UUID."""
    chosen = {"service.instance.id": "5f0c1f1e-9c3a-4bb4-8e0b-0d5b3ad3c1a1"}
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"service.instance.id={chosen}")
    assert of_worker(chosen) == chosen


# What is counted.


def test_sums_and_histograms_are_counted_and_all_else_is_exported_as_before(
    worker: Worker,
) -> None:
    """My counters and histograms go to the worker's counts, not to my reader; a gauge goes on."""
    own, other = reader(), InMemoryMetricReader()
    provider = worker.provider(own, other, views=[SIZE])
    meter = provider.get_meter("shop", "2", schema_url="https://example.com/schema")
    orders = meter.create_counter("orders", "{order}", "Orders.")
    worker.readers.take_over(provider)
    orders.add(2, {"kind": "book", "new": True})
    orders.add(3, {"kind": "book", "new": True})
    meter.create_counter("seconds").add(1.0)
    meter.create_up_down_counter("stock").add(-4)
    meter.create_histogram("size").record(1.5)
    meter.create_gauge("level").set(5)
    meter.create_observable_counter("seen", [lambda _: [Observation(7)]])
    assert worker.values() == {"orders": [5], "seconds": [1.0], "stock": [-4]}
    counted = worker.counted()
    [order] = counted["orders"].samples
    assert order.labels == {"kind": "book", "new": True}
    assert isinstance(order.value, int)
    assert isinstance(counted["seconds"].samples[0].value, float)
    found = counted["orders"]
    assert (found.kind, found.unit, found.meaning) == ("counter", "{order}", "Orders.")
    assert (found.scope, found.scope_version) == ("shop", "2")
    assert found.scope_schema == "https://example.com/schema"
    assert counted["stock"].kind == "updown"
    assert counted["size"].bounds == (1.0, 2.0)
    assert counted["size"].distributions[0].counts == [0, 1, 0]
    assert exported_by(own) == {"level", "seen"}
    assert exported_by(other) == {"orders", "seconds", "stock", "size", "level", "seen"}


def test_views_make_of_an_instrument_what_they_say(worker: Worker) -> None:
    """My views rename, cut attributes, set buckets, drop, and make two of one: so does a worker."""
    buckets = ExplicitBucketHistogramAggregation([10])
    views = [
        View(instrument_name="hidden", aggregation=DropAggregation()),
        View(
            instrument_name="size",
            name="bytes",
            description="Mine.",
            attribute_keys={"kind"},
            aggregation=SIZES,
        ),
        View(instrument_name="size", name="rough", aggregation=buckets, attribute_keys=set()),
    ]
    own = reader()
    provider = worker.provider(own, views=views)
    worker.readers.take_over(provider)
    meter = provider.get_meter("shop")
    meter.create_counter("hidden").add(1)
    size = meter.create_histogram("size")
    size.record(1.5, {"kind": "book", "id": 1})
    size.record(11, {"kind": "book", "id": 2})
    counted = worker.counted()
    assert set(counted) == {"bytes", "rough"}
    [one] = counted["bytes"].distributions
    assert (one.labels, one.counts, one.total) == ({"kind": "book"}, [0, 1, 1], 12.5)
    assert counted["bytes"].meaning == "Mine."
    [one] = counted["rough"].distributions
    assert (one.labels, one.counts) == ({}, [1, 1])
    assert counted["rough"].bounds == (10.0,)
    assert exported_by(own) == set()


@pytest.mark.skipif(
    ADVISORY not in signature(Meter.create_histogram).parameters, reason="since 1.30"
)
def test_the_buckets_that_an_instrument_asks_for(worker: Worker) -> None:
    """I have no view, and my instrument says which buckets it wants: a worker counts in these."""
    own = reader()
    provider = worker.provider(own)
    worker.readers.take_over(provider)
    sizes: Any = {ADVISORY: [1, 2]}
    provider.get_meter("shop").create_histogram("size", **sizes).record(1.5)
    counted = worker.counted()["size"]
    assert counted.bounds == (1.0, 2.0)
    assert counted.distributions[0].counts == [0, 1, 0]
    assert exported_by(own) == set()


def test_exponential_histograms_stay_with_the_reader(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """My view asks for exponential buckets: my reader exports them, and one line says so."""
    exponential = View(
        instrument_type=Histogram, aggregation=ExponentialBucketHistogramAggregation()
    )
    own = reader()
    provider = worker.provider(own, views=[exponential])
    with caplog.at_level(logging.WARNING, "taskobs"):
        worker.readers.take_over(provider)
        worker.readers.take_over(provider)
    [line] = caplog.messages
    assert "exponential histograms, which each process exports itself" in line
    meter = provider.get_meter("shop")
    meter.create_histogram("size").record(1)
    meter.create_counter("orders").add(1)
    assert worker.values() == {"orders": [1]}
    assert exported_by(own) == {"size"}


@pytest.mark.parametrize("delta", [False, True])
def test_what_was_measured_before_is_counted_once(worker: Worker, *, delta: bool) -> None:
    """My module counts when it is imported: that is in the worker's sums, and nowhere else."""
    own = reader(preferred_temporality=DELTAS if delta else None)
    provider = worker.provider(own, views=[SIZE])
    meter = provider.get_meter("shop")
    orders = meter.create_counter("orders")
    size = meter.create_histogram("size")
    level = meter.create_gauge("level")
    orders.add(1)
    size.record(3)
    assert exported_by(own) == {"orders", "size"}
    orders.add(2, {"kind": "book"})
    size.record(1)
    level.set(1)
    worker.readers.take_over(provider)
    orders.add(4, {"kind": "book"})
    size.record(1)
    # A reader of deltas has exported what came first.
    assert sorted(worker.values()["orders"]) == ([6] if delta else [1, 6])
    [found] = worker.counted()["size"].distributions
    assert (found.counts, found.total) == (([2, 0, 0], 2.0) if delta else ([2, 0, 1], 5.0))
    assert exported_by(own) == {"level"}


def test_each_reader_has_sums_of_its_own(worker: Worker) -> None:
    """Two of my readers export to two backends: each gets all, with its settings."""
    provider = worker.provider(reader(headers={"x-key": "one"}), reader(headers={"x-key": "two"}))
    worker.readers.take_over(provider)
    provider.get_meter("shop").create_counter("orders").add(3)
    assert worker.values(1) == worker.values(2) == {"orders": [3]}
    keys = [unpack(one)["exporter"]["headers"]["x-key"] for one in worker.memory.readers.all()]
    assert keys == ["one", "two"]


@pytest.mark.skipif(not hasattr(MeterProvider, "add_metric_reader"), reason="since 1.43")
def test_a_reader_that_is_added_later(worker: Worker) -> None:
    """I add a reader to my provider when tasks run already: it is counted for from then on."""
    provider = worker.provider(InMemoryMetricReader())
    worker.readers.take_over(provider)
    own = reader()
    provider.add_metric_reader(own)
    provider.get_meter("shop").create_counter("orders").add(3)
    assert worker.values() == {"orders": [3]}
    worker.readers.restore()
    assert "add_metric_reader" not in vars(provider)
    shut_down(own)


def test_restore_gives_the_readers_all_back(worker: Worker) -> None:
    """I close the session: my reader exports what comes from then on, and nothing twice."""
    own = reader()
    provider = worker.provider(own)
    orders = provider.get_meter("shop").create_counter("orders")
    orders.add(1)
    worker.readers.take_over(provider)
    orders.add(2)
    worker.readers.restore()
    assert exported_by(own) == set()
    orders.add(4)
    assert exported_by(own) == {"orders"}
    assert worker.values() == {"orders": [3]}


def test_more_readers_than_there_is_room_for_are_left_alone(worker: Worker) -> None:
    """Each of my processes has a token of its own in a header: some export by themselves."""
    for number in range(10):
        own = reader(headers={"x-token": str(number)})
        provider = worker.provider(own)
        worker.readers.take_over(provider)
        provider.get_meter("shop").create_counter("orders").add(1)
        assert exported_by(own) == (set() if number < 8 else {"orders"})
    assert len(worker.memory.readers.all()) == 8


@pytest.mark.parametrize("name", ["storages_of", "resource_of", "reader_fields"])
def test_a_release_of_the_sdk_that_differs(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The SDK renames what is private: my reader exports by itself."""
    monkeypatch.setattr(compat, name, attrgetter("_renamed"))
    own = reader()
    provider = worker.provider(own)
    worker.readers.take_over(provider)
    monkeypatch.undo()
    provider.get_meter("shop").create_counter("orders").add(1)
    assert worker.counted() == {}
    assert exported_by(own) == {"orders"}


def test_an_instrument_of_a_release_that_differs(worker: Worker) -> None:
    """The same of the views of an instrument: that one is exported by each process."""
    own = reader()
    provider = worker.provider(own)
    worker.readers.take_over(provider)
    [storage] = compat.storages_of(provider).values()
    name = "_get_or_init_view_instrument_match"

    def renamed(_: object) -> Any:
        raise AttributeError(name)

    vars(storage.rest)[name] = renamed
    assert compat.streams_of(storage.rest, provider.get_meter("a").create_counter("b")) is None
    del vars(storage.rest)[name]


def test_no_proxy_of_a_vendor_is_taken_for_a_provider(worker: Worker) -> None:
    """A vendor wraps the provider: it is left alone."""
    worker.readers.take_over(requests)
    assert worker.memory.readers.all() == []
