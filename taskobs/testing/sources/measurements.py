"""What is measured in this process: by tasks, with OpenTelemetry's API, and by taskobs."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    MeterProvider,
    ObservableCounter,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricsData,
)
from opentelemetry.sdk.metrics.export import Gauge as GaugeData
from opentelemetry.sdk.metrics.export import Sum as SumData

from taskobs import semconv
from taskobs.metrics.families import Family, Labels
from taskobs.otel.app._metrics_compat import measure_with
from taskobs.testing.records import Metric, MetricKind

_DELTA: Final[dict[type, AggregationTemporality]] = dict.fromkeys(
    (Counter, Histogram, ObservableCounter, ObservableUpDownCounter, UpDownCounter),
    AggregationTemporality.DELTA,
)
_OF_SDK: Final = "opentelemetry.sdk.metrics"
"""The logger above those of the SDK's modules that measure."""
_OF_SDK_ITSELF: Final = "otel.sdk."
"""How the names of what the SDK measures of itself begin, where the app asks for that."""
_OF_TASKS: Final = "celery.task."
"""How the names of what taskobs counts of tasks begin; the rest is about the worker."""


class TestMeters:
    """A MeterProvider for all tests of a process, as instruments keep theirs from test to test.

    It measures what the app's instruments are given, unless the app has set a provider.
    """

    __test__ = False  # pytest: no class of tests

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader(preferred_temporality=_DELTA)
        self._provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self._found: tuple[Metric, ...] = ()

    def begin(self) -> None:
        """Forget what earlier tests have measured."""
        self._reader.get_metrics_data()
        self._found = ()

    def use(self) -> None:
        """Measure from now on."""
        measure_with(self._provider)

    def metrics(self) -> tuple[Metric, ...]:
        """Return what was measured since ``begin``."""
        self._found = added(self._found, _metrics_of(self._reader.get_metrics_data()))
        return self._found


@contextmanager
def instruments_made_again() -> Generator[None]:
    """Make instruments that an earlier test has made, without a warning of the SDK's for each.

    The provider outlives a test, so the warning, of releases before 1.30, is not about the app.
    """
    logger = logging.getLogger(_OF_SDK)
    before = logger.level
    logger.setLevel(max(before, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(before)


def added(before: tuple[Metric, ...], now: Iterable[Metric]) -> tuple[Metric, ...]:
    """Return series of two periods as one, each once."""
    found = {_key(one): one for one in before}
    for one in now:
        found[_key(one)] = _added(found.get(_key(one)), one)
    return tuple(found.values())


def _key(metric: Metric) -> tuple[str, str]:
    return metric.name, repr(sorted(metric.attributes.items()))


def _added(before: Metric | None, now: Metric) -> Metric:
    """Return the sum of two periods; a gauge is what it was last."""
    if before is None or now.kind == "gauge":
        return now
    count = before.count + now.count if now.kind == "histogram" else now.count
    return Metric(
        name=now.name,
        kind=now.kind,
        value=before.value + now.value,
        count=count,
        unit=now.unit,
        attributes=now.attributes,
    )


def _metrics_of(data: MetricsData | None) -> Iterator[Metric]:
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in (one for one in scope.metrics if _of_the_app(one.name)):
                kind = _kind(metric.data)
                for point in metric.data.data_points:
                    yield _metric(metric.name, metric.unit or "", kind, point)


def _of_the_app(name: str) -> bool:
    """Tell whether a task may have asked for it: not what the stock instrumentation or SDK adds.

    The SDK's own instruments outlive their provider, whichever test has made that.
    """
    return name != semconv.STOCK_HISTOGRAM and not name.startswith(_OF_SDK_ITSELF)


def _kind(data: object) -> MetricKind:
    if isinstance(data, SumData):
        return "counter" if data.is_monotonic else "updown"
    return "gauge" if isinstance(data, GaugeData) else "histogram"


def _metric(name: str, unit: str, kind: MetricKind, point: Any) -> Metric:  # noqa: ANN401  # of three classes
    histogram = kind == "histogram"
    return Metric(
        name=name,
        kind=kind,
        value=point.sum if histogram else point.value,
        count=point.count if histogram else 1,
        unit=unit,
        attributes=dict(point.attributes or {}),
    )


def metrics_of_families(families: Iterable[Family]) -> tuple[Metric, ...]:
    """Return what taskobs has counted of tasks, as records."""
    of_tasks = (family for family in families if family.name.startswith(_OF_TASKS))
    return tuple(one for family in of_tasks for one in _of_family(family))


def _of_family(family: Family) -> Iterator[Metric]:
    for sample in family.samples:
        yield _of(family, sample.labels, sample.value, 1)
    for one in family.distributions:
        yield _of(family, one.labels, one.total, sum(one.counts))


def _of(family: Family, labels: Labels, value: float, count: int) -> Metric:
    return Metric(
        name=family.name,
        kind=family.kind,
        value=value,
        count=count,
        unit=family.unit,
        attributes=dict(labels),
    )
