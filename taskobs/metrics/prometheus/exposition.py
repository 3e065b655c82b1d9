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
from taskobs.metrics.families import Distribution, Family, Labels, label_text, plain_name

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

EXTRA: Final = "prometheus"
_KINDS: Final = {"updown": "gauge"}
"""The types of Prometheus' that have another name, or are the nearest."""
_BOUND: Final = "le"


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
    registry.register(_Collected(_metrics(families)))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _metrics(families: Iterable[Family]) -> list[Metric]:
    """Return one metric for each name: a scrape with a name twice would be refused as a whole.

    Of what has the same name, but is of another type or has other buckets, the first is kept.
    """
    found: dict[str, tuple[Family, Metric]] = {}
    for family in families:
        first, metric = found.setdefault(family.prometheus_name, (family, _metric(family)))
        if (first.kind, first.unit, first.bounds) == (family.kind, family.unit, family.bounds):
            _add(metric, family)
    return [metric for _, metric in found.values()]


def _metric(family: Family) -> Metric:
    from prometheus_client.metrics_core import Metric

    kind = _KINDS.get(family.kind, family.kind)
    return Metric(family.prometheus_name, family.meaning, kind, family.prometheus_unit)


def _add(metric: Metric, family: Family) -> None:
    name, seen = metric.name, {frozenset(one.labels.items()) for one in metric.samples}
    series = f"{name}_total" if family.kind == "counter" else name
    for labels, value in family.samples:
        plain = _plain(labels, family)
        if (of := frozenset(plain.items())) not in seen:
            seen.add(of)
            metric.add_sample(series, plain, value)
    for one in family.distributions:
        _add_histogram(metric, family, one)


def _add_histogram(metric: Metric, family: Family, one: Distribution) -> None:
    from prometheus_client.samples import Exemplar

    name, labels = metric.name, _plain(one.labels, family)
    bounds = [*family.bounds, inf]
    cumulated = list(accumulate(one.counts))
    for index, (bound, count) in enumerate(zip(bounds, cumulated, strict=True)):
        found = one.exemplars.get(index)
        exemplar = Exemplar(_texts(found.labels), found.value, found.at) if found else None
        of_bucket = {**labels, _BOUND: "+Inf" if bound == inf else str(float(bound))}
        metric.add_sample(f"{name}_bucket", of_bucket, count, exemplar=exemplar)
    metric.add_sample(f"{name}_count", labels, cumulated[-1])
    metric.add_sample(f"{name}_sum", labels, one.total)


def _texts(labels: Labels) -> dict[str, str]:
    return {name: label_text(value) for name, value in labels.items()}


def _plain(labels: Labels, family: Family) -> dict[str, str]:
    scope = {"otel.scope.name": family.scope, "otel.scope.version": family.scope_version}
    found: dict[str, str] = {}
    for name, value in [*labels.items(), *((name, text) for name, text in scope.items() if text)]:
        plain, text = plain_name(name), label_text(value)
        plain = f"{plain}_" if plain == _BOUND else plain
        # Two names may be the same here: OpenTelemetry's specification joins their values.
        found[plain] = f"{found[plain]};{text}" if plain in found else text
    return found
