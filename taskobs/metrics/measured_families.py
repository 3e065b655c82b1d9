"""What tasks have measured themselves as metric families."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taskobs.metrics.counter_keys import OVERFLOW, CounterKey, Measured
from taskobs.metrics.families import Distribution, Family, Sample

_BucketSums = Sequence[float]


def measured_families(sums: Iterable[tuple[CounterKey, _BucketSums]]) -> list[Family]:
    """Return one family for each instrument."""
    found: dict[Measured, list[tuple[Measured, _BucketSums]]] = {}
    for series, values in sums:
        # Its description may differ between processes; that makes it no other instrument.
        if not isinstance(series, Measured):
            continue
        head = series._replace(labels=(), meaning="")
        if any(values) or series.labels != ((OVERFLOW, True),):
            found.setdefault(head, []).append((series, values))
    return [_family(rows) for rows in found.values()]


def _family(rows: Sequence[tuple[Measured, _BucketSums]]) -> Family:
    first = rows[0][0]
    histogram = first.kind == "histogram"
    return Family(
        name=first.name,
        kind=first.kind,
        meaning=first.meaning,
        unit=first.unit,
        scope=first.scope,
        scope_version=first.scope_version,
        bounds=first.bounds,
        samples=()
        if histogram
        else [Sample(dict(series.labels), values[0]) for series, values in rows],
        distributions=[_distribution(*row) for row in rows] if histogram else (),
    )


def _distribution(series: Measured, values: _BucketSums) -> Distribution:
    *counts, total = values
    return Distribution(dict(series.labels), [int(one) for one in counts], total, {})
