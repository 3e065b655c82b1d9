"""What has changed since an earlier export, for backends that take deltas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from taskobs.metrics.families import Distribution, Family, Labels, LabelValue, Sample
from taskobs.metrics.moment import Moment

_Key = tuple[str, str, str, tuple[tuple[str, LabelValue], ...]]


class Baseline:
    """The sums that a backend has accepted, and when those were taken. Not thread-safe."""

    def __init__(self) -> None:
        self._at: Moment | None = None
        self._restored = 0
        self._samples: dict[_Key, float] = {}
        self._distributions: dict[_Key, Distribution] = {}

    @property
    def at(self) -> int:
        """When the sums were taken, in nanoseconds since the epoch; 0 before the first."""
        return self._restored if self._at is None else self._at.epoch_ns

    def accepted(self, families: Iterable[Family], at: Moment) -> None:
        """Note that a backend has accepted the changes up to these families."""
        self._at = at
        self._note(families)

    def restore(self, families: Iterable[Family], at: int) -> None:
        """Continue from what another has noted; ``at`` is as the property."""
        self._restored = at
        self._note(families)

    def _note(self, families: Iterable[Family]) -> None:
        for family in families:
            if family.kind == "counter":
                for labels, value in family.samples:
                    self._samples[_key(family, labels)] = value
            for one in family.distributions:
                self._distributions[_key(family, one.labels)] = one

    def changes(self, family: Family) -> Family:
        """Return a counter or histogram without what was accepted; series that stand still too."""
        samples = [self._sample(family, one) for one in family.samples]
        series = [self._distribution(family, one) for one in family.distributions]
        return replace(family, samples=samples, distributions=series)

    def _sample(self, family: Family, one: Sample) -> Sample:
        return Sample(one.labels, one.value - self._samples.get(_key(family, one.labels), 0))

    def _distribution(self, family: Family, one: Distribution) -> Distribution:
        before = self._distributions.get(_key(family, one.labels))
        if before is None or len(before.counts) != len(one.counts):
            return one
        counts = [a - b for a, b in zip(one.counts, before.counts, strict=True)]
        return Distribution(one.labels, counts, one.total - before.total, one.exemplars)


def _key(family: Family, labels: Labels) -> _Key:
    series = tuple(sorted(labels.items(), key=lambda pair: pair[0]))
    return family.scope, family.scope_version, family.name, series
