"""Prometheus' text format, and OpenMetrics where the scraper asks for it.

``prometheus_client`` writes both; it is an extra, ``taskobs[prometheus]``, and imported when it is
needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING, Final

from taskobs.errors import MissingExtraError
from taskobs.metrics.families import Distribution, Family, Labels, plain_name

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

EXTRA: Final = "prometheus"


class _Collected:
    """What ``prometheus_client`` calls a collector."""

    def __init__(self, metrics: list[Metric]) -> None:
        self.metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self.metrics


def require_extra(feature: str) -> None:
    """Check that ``prometheus_client`` is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if find_spec("prometheus_client") is None:
        raise MissingExtraError(feature, EXTRA)


def render(families: Iterable[Family], accept: str = "") -> tuple[bytes, str]:
    """Return the body of a scrape, and its content type; ``accept`` is the scraper's header.

    Exemplars are written in OpenMetrics alone: the older format has none.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([_metric(family) for family in families]))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _metric(family: Family) -> Metric:
    from prometheus_client.metrics_core import Metric

    name = family.prometheus_name
    metric = Metric(name, family.meaning, family.kind, family.prometheus_unit)
    series = f"{name}_total" if family.kind == "counter" else name
    for labels, value in family.samples:
        metric.add_sample(series, _plain(labels), value)
    for one in family.distributions:
        _add_histogram(metric, family, one)
    return metric


def _add_histogram(metric: Metric, family: Family, one: Distribution) -> None:
    from prometheus_client.samples import Exemplar

    name, labels = family.prometheus_name, _plain(one.labels)
    bounds = [*family.bounds, inf]
    cumulated = list(accumulate(one.counts))
    for index, (bound, count) in enumerate(zip(bounds, cumulated, strict=True)):
        found = one.exemplars.get(index)
        exemplar = Exemplar(dict(found.labels), found.value, found.at) if found else None
        of_bucket = {**labels, "le": "+Inf" if bound == inf else str(float(bound))}
        metric.add_sample(f"{name}_bucket", of_bucket, count, exemplar=exemplar)
    metric.add_sample(f"{name}_count", labels, cumulated[-1])
    metric.add_sample(f"{name}_sum", labels, one.total)


def _plain(labels: Labels) -> dict[str, str]:
    return {plain_name(name): value for name, value in labels.items()}
