"""Metric families as the data that OpenTelemetry's exporters take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
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

from taskobs import __version__
from taskobs.metrics.changes import Baseline
from taskobs.metrics.families import Distribution, Family, Labels

_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
_DELTA: Final = AggregationTemporality.DELTA
_SCOPE: Final = "taskobs"


def metrics_data(
    groups: Iterable[tuple[int, Iterable[Family]]],
    resource: Resource,
    baseline: Baseline | None = None,
) -> MetricsData:
    """Return families, in groups that were counted since the same nanosecond of the epoch.

    With a ``baseline``, counters and histograms are the changes since it.
    """
    now = time.time_ns()
    ours = _SCOPE, __version__, ""
    scopes: dict[tuple[str, str, str], list[Metric]] = {ours: []}
    for since, families in groups:
        points = _Points(since, now, baseline)
        for family in families:
            named = family.scope, family.scope_version, family.scope_schema
            of = named if family.scope else ours
            scopes.setdefault(of, []).extend(points.metrics([family]))
    scoped = [
        ScopeMetrics(scope=InstrumentationScope(*scope), metrics=metrics, schema_url=scope[2])
        for scope, metrics in scopes.items()
        if metrics
    ]
    whole = ResourceMetrics(resource=resource, scope_metrics=scoped, schema_url=resource.schema_url)
    return MetricsData(resource_metrics=[whole])


class _Points:
    def __init__(self, since: int, now: int, baseline: Baseline | None) -> None:
        began = since if baseline is None else baseline.at or since
        # The wall clock may have been set back since: nothing ends before it began.
        self._since, self._now = min(began, now), now
        self._baseline = baseline
        self._temporality = _CUMULATIVE if baseline is None else _DELTA

    def metrics(self, families: Iterable[Family]) -> Iterable[Metric]:
        for family in families:
            data = self._data(family)
            if data.data_points:
                yield Metric(family.name, family.meaning, family.unit, data)

    def _data(self, family: Family) -> Gauge | Sum | Histogram:
        if family.kind == "gauge":
            return Gauge([self._number(*one) for one in family.samples])
        if family.kind == "updown":  # a change of such a sum is nothing that a backend adds up
            points = [self._number(*one) for one in family.samples]
            return Sum(points, _CUMULATIVE, is_monotonic=False)
        if self._baseline is not None:
            family = self._baseline.changes(family)
        if family.kind == "counter":
            points = [self._number(*one) for one in family.samples]
            return Sum(points, self._temporality, is_monotonic=True)
        series = [self._histogram(one, family.bounds) for one in family.distributions]
        return Histogram(series, self._temporality)

    def _number(self, labels: Labels, value: float) -> NumberDataPoint:
        return NumberDataPoint(
            attributes=dict(labels),
            start_time_unix_nano=self._since,
            time_unix_nano=self._now,
            value=value,
        )

    def _histogram(self, one: Distribution, bounds: Sequence[float]) -> HistogramDataPoint:
        # Without the least and the most: what is exported is derived from sums, which have none.
        return HistogramDataPoint(
            attributes=dict(one.labels),
            start_time_unix_nano=self._since,
            time_unix_nano=self._now,
            count=sum(one.counts),
            sum=one.total,
            bucket_counts=[*one.counts],
            explicit_bounds=[*bounds],
            min=None,  # type: ignore[arg-type]  # exporters leave it out, as the protocol allows
            max=None,  # type: ignore[arg-type]
        )
