"""Makes OpenTelemetry's data points from plain counts, when they are exported.

Counting is what happens often, and takes well below a microsecond; a record of the SDK's own
instruments takes 20.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from taskobs import __version__, semconv
from taskobs.relay import counters as counted
from taskobs.relay.counters import Counters
from taskobs.relay.metrics.run_statistics import BOUNDS, Labels, RunStatistics, Series
from taskobs.relay.moment import Moment

_COUNTED: Final = {
    counted.RECEIVED: semconv.METRIC_RELAY_RECEIVED,
    counted.EXPORTED: semconv.METRIC_RELAY_EXPORTED,
    counted.DROPPED: semconv.METRIC_RELAY_DROPPED,
    counted.RETRIED: semconv.METRIC_RELAY_RETRIED,
    counted.SPOOLED: semconv.METRIC_RELAY_SPOOLED,
    counted.LOST: semconv.METRIC_RELAY_LOST,
    counted.DUPLICATE: semconv.METRIC_RELAY_DUPLICATE,
    counted.DISCARDED: semconv.METRIC_RELAY_DISCARDED,
    counted.BYTES: semconv.METRIC_RELAY_BYTES,
}
_GAUGES: Final = {
    "pending": semconv.METRIC_RELAY_PENDING,
    "open": semconv.METRIC_RELAY_OPEN,
    "held": semconv.METRIC_RELAY_HELD,
    "clients": semconv.METRIC_RELAY_CLIENTS,
}
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
_DELTA: Final = AggregationTemporality.DELTA

PointAttributes = Mapping[str, str]


class Snapshot:
    """Makes data points; with ``delta``, of what was counted since the last accepted ones.

    Not thread-safe.
    """

    def __init__(self, counters: Counters, runs: RunStatistics, *, delta: bool) -> None:
        self._counters = counters
        self._runs = runs
        self._delta = delta
        self._temporality = _DELTA if delta else _CUMULATIVE
        self._accepted: Moment | None = None
        """When what was accepted last, as a delta, was taken."""
        self._taken_at = Moment()
        self._since = self._now = 0
        self._sent: dict[str, dict[tuple[str, str], int]] = {}
        self._taking: dict[str, dict[tuple[str, str], int]] = {}
        self._taken: dict[Labels, Series] = {}

    def take(self, resource: Resource) -> MetricsData:
        """Return all metrics. Call ``settle`` next."""
        self._taken_at = Moment()
        self._now = self._taken_at.epoch_ns
        began = self._accepted.epoch_ns if self._accepted else int(self._counters.since * 1e9)
        self._since = min(began, self._now)
        self._taking = self._counters.counts()
        self._taken = self._runs.collect(reset=self._delta)
        metrics = [*self._sums(), *self._gauges(), *self._of_runs()]
        scope = InstrumentationScope("taskobs", __version__)
        scoped = ScopeMetrics(scope=scope, metrics=metrics, schema_url="")
        whole = ResourceMetrics(
            resource=resource, scope_metrics=[scoped], schema_url=resource.schema_url
        )
        return MetricsData(resource_metrics=[whole])

    def settle(self, *, accepted: bool) -> None:
        """Note whether the backend has accepted what ``take`` returned."""
        if self._delta and accepted:
            self._sent, self._accepted = self._taking, self._taken_at
        elif self._delta:
            self._runs.put_back(self._taken)

    def _sums(self) -> Iterable[Metric]:
        for name, metric in _COUNTED.items():
            sent = self._sent.get(name, {})
            points = [
                self._number(_of(kind, reason), number - sent.get((kind, reason), 0))
                for (kind, reason), number in self._taking[name].items()
            ]
            if points:
                unit = "By" if name == counted.BYTES else f"{{{name}}}"
                yield Metric(metric, "", unit, self._sum(points))

    def _gauges(self) -> Iterable[Metric]:
        found: dict[str, list[NumberDataPoint]] = {}
        for (name, kind), value in self._counters.gauges().items():
            if name in _GAUGES:
                found.setdefault(name, []).append(self._number(_of(kind, ""), value))
        for name, points in found.items():
            yield Metric(_GAUGES[name], "", "1", Gauge(points))

    def _of_runs(self) -> Iterable[Metric]:
        if not self._taken:
            return
        rows = [(_labels(labels), series) for labels, series in self._taken.items()]
        counts = [self._number(attributes, series.count) for attributes, series in rows]
        yield Metric(semconv.METRIC_RUNS, "", "{run}", self._sum(counts))
        times = [self._histogram(attributes, series) for attributes, series in rows if series.timed]
        if times:
            yield Metric(semconv.METRIC_RUN_DURATION, "", "s", Histogram(times, self._temporality))

    def _sum(self, points: Sequence[NumberDataPoint]) -> Sum:
        return Sum(points, self._temporality, is_monotonic=True)

    def _number(self, attributes: PointAttributes, value: float) -> NumberDataPoint:
        return NumberDataPoint(
            attributes=dict(attributes),
            start_time_unix_nano=self._since,
            time_unix_nano=self._now,
            value=value,
        )

    def _histogram(self, attributes: PointAttributes, series: Series) -> HistogramDataPoint:
        return HistogramDataPoint(
            attributes=dict(attributes),
            start_time_unix_nano=self._since,
            time_unix_nano=self._now,
            count=series.timed,
            sum=series.total,
            bucket_counts=series.buckets,
            explicit_bounds=BOUNDS,
            min=series.least,
            max=series.most,
        )


def _of(kind: str, reason: str) -> PointAttributes:
    pairs = {semconv.RELAY_KIND: kind, semconv.RELAY_REASON: reason}
    return {name: value for name, value in pairs.items() if value}


def _labels(labels: Labels) -> PointAttributes:
    return {
        semconv.CELERY_TASK_NAME: labels.task,
        semconv.CELERY_OUTCOME: labels.outcome,
        semconv.CELERY_QUEUE: labels.queue,
        semconv.MESSAGING_DESTINATION_NAME: labels.queue,
    }
