"""What tasks have measured themselves as metric families."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taskobs.metrics.counter_keys import OVERFLOW, CounterKey, Measured
from taskobs.metrics.families import Distribution, Family, Sample

_BucketSums = Sequence[float]
_Rows = dict[tuple[object, ...], tuple[Measured, _BucketSums]]
"""By their labels."""


def measured_families(
    sums: Iterable[tuple[CounterKey, _BucketSums]], reader: int = 0
) -> list[Family]:
    """Return one family for each instrument, of the sums for one metric reader of the app's.

    Without a number, of those for the worker's own metrics.
    """
    found: dict[Measured, _Rows] = {}
    for series, values in sums:
        if not isinstance(series, Measured) or series.reader != reader:
            continue
        if any(values) or series.labels != ((OVERFLOW, True),):
            # Its description, and what kind of number came first, may differ between processes;
            # that makes it no other instrument.
            head = series._replace(labels=(), meaning="", whole=False)
            _add(found.setdefault(head, {}), series, values)
    return [_family([*rows.values()]) for rows in found.values()]


def _add(rows: _Rows, series: Measured, values: _BucketSums) -> None:
    # With their types, as True and 1 are equal, and two series.
    labels = tuple((name, type(value), value) for name, value in series.labels)
    before = rows.get(labels)
    if before is not None:
        values = [a + b for a, b in zip(before[1], values, strict=True)]
        series = series._replace(whole=series.whole and before[0].whole)
    rows[labels] = series, values


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
        scope_schema=first.scope_schema,
        bounds=first.bounds,
        samples=() if histogram else _samples(rows),
        distributions=[_distribution(*row) for row in rows] if histogram else (),
    )


def _samples(rows: Sequence[tuple[Measured, _BucketSums]]) -> list[Sample]:
    whole = all(series.whole and float(values[0]).is_integer() for series, values in rows)
    return [
        Sample(dict(series.labels), int(values[0]) if whole else values[0])
        for series, values in rows
    ]


def _distribution(series: Measured, values: _BucketSums) -> Distribution:
    *counts, total = values
    return Distribution(dict(series.labels), [int(one) for one in counts], total, {})
