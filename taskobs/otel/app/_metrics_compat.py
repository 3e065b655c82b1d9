"""Private names of MeterProviders and their readers: the only module that uses them.

Each name is declared in ``NAMES``, with what is done without it.
"""

# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from threading import RLock
from typing import Any, Final, Literal, NamedTuple

from opentelemetry import metrics
from opentelemetry.environment_variables import OTEL_PYTHON_METER_PROVIDER

from taskobs.internal.private_names import PrivateName
from taskobs.internal.wrapping import Patches

_SDK: Final = "opentelemetry.sdk.metrics._internal"
_USE: Final = "metrics of the app's own readers are exported by each process"
_READ: Final = {
    # By module, below that of the SDK's metrics: what is read of objects (seen in 1.28 to 1.45).
    "": ("MeterProvider._measurement_consumer", "MeterProvider._sdk_config"),
    ".measurement_consumer": ("SynchronousMeasurementConsumer._reader_storages",),
    ".metric_reader_storage": (
        "MetricReaderStorage._get_or_init_view_instrument_match",
        *("MetricReaderStorage._instrument_view_instrument_matches", "MetricReaderStorage._lock"),
        *("MetricReaderStorage._instrument_class_temporality", "MetricReaderStorage._sdk_config"),
        "MetricReaderStorage._instrument_class_aggregation",
    ),
    "._view_instrument_match": (
        *("_ViewInstrumentMatch._name", "_ViewInstrumentMatch._description"),
        *("_ViewInstrumentMatch._view", "_ViewInstrumentMatch._aggregation"),
    ),
    ".view": ("View._attribute_keys", "View._aggregation"),
    ".aggregation": (
        *("_SumAggregation._value", "_DropAggregation._attributes"),
        "_ExplicitBucketHistogramAggregation._boundaries",
    ),
    ".export": (
        *("PeriodicExportingMetricReader._exporter", "PeriodicExportingMetricReader._shutdown"),
        "PeriodicExportingMetricReader._export_interval_millis",
        *("MetricReader._instrument_class_temporality", "MetricReader._receive_metrics"),
        "MetricReader._instrument_class_aggregation",
    ),
}
_PROXY_METERS: Final = PrivateName(
    package="opentelemetry-api",
    module="opentelemetry.metrics._internal",
    path="_PROXY_METER_PROVIDER",
    use="what tasks measure with opentelemetry.metrics is not exported, unless the app sets a "
    "MeterProvider",
)
_SET_METERS: Final = PrivateName(
    package="opentelemetry-api",
    module="opentelemetry.metrics._internal",
    path="_set_meter_provider",
    use="a MeterProvider that is set after the start of a pool process, through a function that "
    "was imported before init(), exports from each process",
)
_BATCH: Final = PrivateName(
    package="opentelemetry-exporter-otlp-proto-http",
    module="opentelemetry.exporter.otlp.proto.http.metric_exporter",
    path="OTLPMetricExporter._max_export_batch_size",  # older releases have no such setting
    use=_USE,
    of_instances=True,
)
NAMES: Final = (
    *(_PROXY_METERS, _SET_METERS, _BATCH),
    *(
        PrivateName(
            package="opentelemetry-sdk",
            module=f"{_SDK}{module}",
            path=path,
            use=_USE,
            of_instances=True,
        )
        for module, paths in _READ.items()
        for path in paths
    ),
)


def watch_set_meter_provider(patches: Patches, around: Callable[..., Any]) -> None:
    """Have ``around(wrapped, instance, args, kwargs)`` called when a MeterProvider is set."""
    # As with tracer providers, all ways to set one end in this function (seen in 1.28 to 1.45).
    if _SET_METERS.find() is not None:
        patches.wrap(sys.modules[_SET_METERS.module], "_set_meter_provider", around)
    else:
        patches.wrap(metrics, "set_meter_provider", around)


def measure_with(provider: metrics.MeterProvider) -> bool:
    """Have the API's instruments use a provider until the app sets one; False if it has.

    It is not set as the global one, which can be done once: an app that sets its own in the pool
    children, as OpenTelemetry documents it, does so as ever, and its instruments use that then.
    """
    proxies = _PROXY_METERS.find()
    if OTEL_PYTHON_METER_PROVIDER in os.environ or proxies is None:
        return False
    if metrics.get_meter_provider() is not proxies:
        return False
    # What the API calls when a provider is set (seen in 1.28 to 1.45).
    use: Callable[[metrics.MeterProvider], object] | None = getattr(
        proxies, "on_set_meter_provider", None
    )
    if use is None:
        return False
    use(provider)
    return True


READER_CALLS: Final = ("collect", "_receive_metrics", "export")
"""What is called of a reader and of its exporter when that exports."""
_SUM: Final = "_SumAggregation"
_HISTOGRAM: Final = "_ExplicitBucketHistogramAggregation"
_DROP: Final = "_DropAggregation"
_EXPONENTIAL: Final = "ExponentialBucketHistogramAggregation"

storages_of: Final[Callable[[object], Mapping[Any, Any]]] = attrgetter(
    "_measurement_consumer._reader_storages"
)
"""Gives, by reader, the storages of a MeterProvider; raises AttributeError where it has none."""
resource_of: Final[Callable[[object], Any]] = attrgetter("_sdk_config.resource")
max_batch: Final[Callable[[object], Any]] = _BATCH.read


def set_storages(provider: Any, storages: Mapping[Any, Any]) -> None:  # noqa: ANN401  # the SDK's
    """Have a provider's readers use other storages.

    In one step, without the lock of the SDK, which may be held while a callback of the app's runs.
    The SDK itself puts a new mapping in the place of the one before (seen in 1.44).
    """
    provider._measurement_consumer._reader_storages = storages


class ReaderFields(NamedTuple):
    """What a reader that exports at an interval was made with."""

    exporter: Any
    interval: Any
    """In milliseconds."""
    temporalities: Mapping[type, Any]
    """By class of the SDK's instruments."""
    ended: Any


reader_fields: Final[Callable[[object], tuple[Any, ...]]] = attrgetter(
    *("_exporter", "_export_interval_millis", "_instrument_class_temporality"),
    "_shutdown",
)


class Stream(NamedTuple):
    """What one view, or none, makes of an instrument."""

    kind: Literal["sum", "histogram"]
    name: str
    description: str
    keys: frozenset[str] | None
    """The attributes that are kept; None for all."""
    bounds: tuple[float, ...]
    """Of the buckets of a histogram."""


class Earlier(NamedTuple):
    """What was measured before somebody else counts it."""

    instrument: Any
    stream: Stream
    point: Any
    """One of the SDK's data points."""


def streams_of(storage: Any, instrument: Any) -> list[Stream] | None:  # noqa: ANN401  # the SDK's
    """Return what a reader makes of an instrument, as the provider's views have it.

    None if that is not only sums of counters and histograms with buckets that are set.
    """
    if not isinstance(instrument, (metrics.Counter, metrics.UpDownCounter, metrics.Histogram)):
        return None
    if instrument.instrumentation_scope.attributes:  # type: ignore[union-attr]  # of the SDK's
        return None
    try:
        matches = storage._get_or_init_view_instrument_match(instrument)
        found = [
            _stream(one, histogram=isinstance(instrument, metrics.Histogram)) for one in matches
        ]
    except (AttributeError, TypeError, ValueError):  # a release that differs
        return None
    return None if None in found else [one for one in found if isinstance(one, Stream)]


def _stream(match: Any, *, histogram: bool) -> Stream | str | None:  # noqa: ANN401  # the SDK's
    """Return what a match makes of measurements; a text if that is nothing, None if it is else."""
    aggregation = match._aggregation
    kind = type(aggregation).__name__
    if kind == _DROP:
        return _DROP
    if kind != (_HISTOGRAM if histogram else _SUM):
        return None
    keys = match._view._attribute_keys
    return Stream(
        "histogram" if histogram else "sum",
        str(match._name),
        str(match._description or ""),
        None if keys is None else frozenset(keys),
        tuple(map(float, aggregation._boundaries)) if histogram else (),
    )


def makes_exponential(provider: Any, reader: Any) -> bool:  # noqa: ANN401  # the SDK's
    """Tell whether a provider's views or a reader make exponential histograms."""
    aggregations: Mapping[type, Any] = reader._instrument_class_aggregation
    views: Sequence[Any] = getattr(provider._sdk_config, "views", ())
    asked = [*(getattr(view, "_aggregation", None) for view in views), *aggregations.values()]
    return any(type(one).__name__ == _EXPONENTIAL for one in asked)


def without_counted(storage: Any) -> Any:  # noqa: ANN401  # the SDK's
    """Return a storage like this one, with what it holds of instruments that can't be counted."""
    made = type(storage)(
        storage._sdk_config,
        storage._instrument_class_temporality,
        storage._instrument_class_aggregation,
    )
    for instrument, matches in list(storage._instrument_view_instrument_matches.items()):
        if streams_of(storage, instrument) is None:
            made._instrument_view_instrument_matches[instrument] = matches
    return made


def earlier_points(storage: Any) -> Iterator[Earlier]:  # noqa: ANN401  # the SDK's
    """Yield what a storage holds of instruments that can be counted.

    Of a reader that takes deltas, that is what it has not exported. The storage stays as it is: a
    thread that measures now may be in the middle of it.
    """
    for instrument, matches in list(storage._instrument_view_instrument_matches.items()):
        if streams_of(storage, instrument) is None:
            continue
        temporality = storage._instrument_class_temporality[type(instrument)]
        for match in matches:
            stream = _stream(match, histogram=isinstance(instrument, metrics.Histogram))
            if isinstance(stream, Stream):
                for point in match.collect(temporality, time.time_ns()) or ():
                    yield Earlier(instrument, stream, point)


def renew_lock(storage: Any) -> None:  # noqa: ANN401  # the SDK's
    """In a forked child: another thread of the parent may have held the lock."""
    storage._lock = RLock()
