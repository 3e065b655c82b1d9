"""The OTLP metric readers of the app's own MeterProvider, whose part a worker's counts can take.

Each reader of the SDK's has a storage that measurements are added to. Another one takes its place:
what is a sum, or a histogram with buckets that are set, is counted in the memory that all processes
of the worker share. All else stays with the reader: gauges, what callbacks observe, exponential
histograms. A reader that has nothing to export exports nothing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock
from typing import Any, ClassVar, Final

from opentelemetry import metrics

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.metrics.families import Kind
from taskobs.metrics.task_measurements import Instrument, TaskMeasurements
from taskobs.otel.app import _metrics_compat as compat
from taskobs.otel.app import reader_settings
from taskobs.otel.app._metrics_compat import Earlier, Stream
from taskobs.otel.app.reader_settings import settings_of_reader
from taskobs.protocol.sanitize import UNEXPECTED

_log: Final = logging.getLogger("taskobs")
_EXPONENTIAL: Final = (
    "taskobs: the app's MeterProvider makes exponential histograms, which each process exports "
    "itself; its counters are exported once for the worker"
)
_ADD: Final = "add_metric_reader"
_SDK: Final = "opentelemetry.sdk.metrics"
_Take = Callable[[float, Any], None]


class AppReaders:
    """Counts what readers of the app's would export, from ``take_over`` to ``restore``.

    ``number`` returns the number of a reader with some settings, or 0 if it can't be counted for.
    """

    def __init__(self, measurements: TaskMeasurements, number: Callable[[bytes], int]) -> None:
        self._measurements, self._number = measurements, number
        self._taken: list[tuple[Any, dict[Any, CountedStorage]]] = []
        self._watched: list[Any] = []
        self._lock = Lock()
        self._warned = False
        forksafe.add(self, ForkStep.EXPORT)

    def take_over(self, provider: object) -> None:
        """Count for those readers of a provider whose exporters somebody else can be.

        Also for those that were added since the last call; never raises.
        """
        with self._lock:
            try:
                self._take_over(provider)
            except (OSError, *UNEXPECTED):  # the memory, or a release of the SDK that differs
                _log.debug("taskobs: the app's metric readers are left alone", exc_info=True)

    def _take_over(self, provider: Any) -> None:  # noqa: ANN401  # the SDK's
        storages = compat.storages_of(provider)
        self._watch(provider)
        made: dict[Any, CountedStorage] = {}
        for reader, storage in storages.items():
            number = 0 if isinstance(storage, CountedStorage) else self._number_of(provider, reader)
            if number:
                rest = compat.without_counted(storage)
                made[reader] = CountedStorage(rest, self._measurements, number)
        if made:
            compat.set_storages(provider, {**storages, **made})
            self._taken.append((provider, made))
        for reader, counted in made.items():
            # Now: what is measured from here on is counted already.
            for point in compat.earlier_points(storages[reader]):
                counted.add_earlier(point)

    def _watch(self, provider: Any) -> None:  # noqa: ANN401  # the SDK's
        """Count also for readers that are added later, which releases from 1.43 on allow."""
        if hasattr(provider, _ADD) and _ADD not in _attributes(provider):
            _attributes(provider)[_ADD] = partial(self._add, provider, getattr(provider, _ADD))
            self._watched.append(provider)

    def _add(self, provider: object, add: Callable[..., object], *args: Any, **named: Any) -> None:  # noqa: ANN401  # the SDK's
        add(*args, **named)
        self.take_over(provider)

    def _number_of(self, provider: Any, reader: Any) -> int:  # noqa: ANN401  # the SDK's
        settings = settings_of_reader(reader, compat.resource_of(provider))
        number = 0 if settings is None else self._number(settings)
        if number and not self._warned and compat.makes_exponential(provider, reader):
            self._warned = True
            _log.warning(_EXPONENTIAL)
        return number

    def restore(self) -> None:
        """Have the readers export all from this process again."""
        forksafe.remove(self)
        for provider in self._watched:
            _attributes(provider).pop(_ADD, None)
        self._watched.clear()
        for provider, made in self._taken:
            now = compat.storages_of(provider)
            back = {
                reader: made[reader].rest if storage is made.get(reader) else storage
                for reader, storage in now.items()
            }
            compat.set_storages(provider, back)
        self._taken.clear()

    def after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held any lock."""
        self._lock = Lock()
        for _, made in self._taken:
            for storage in made.values():
                storage.after_fork()


def _attributes(one: object) -> dict[str, Any]:
    return vars(one)


class CountedStorage:
    """A reader's storage: counts what can be counted, and leaves the ``rest`` to the SDK's."""

    def __init__(
        self,
        rest: Any,  # noqa: ANN401  # the SDK's
        measurements: TaskMeasurements,
        reader: int,
    ) -> None:
        self.rest = rest
        self._measurements, self._reader = measurements, reader
        self._streams: dict[Any, list[_Counted] | None] = {}

    def consume_measurement(self, measurement: Any, *more: Any, **named: Any) -> None:  # noqa: ANN401  # as the SDK has it
        """Count a measurement."""
        instrument = measurement.instrument
        try:
            found = self._streams[instrument]
        except KeyError:
            found = self._find(instrument, measurement.value)
        if found is None:
            self.rest.consume_measurement(measurement, *more, **named)
            return
        for one in found:
            one.take(measurement.value, measurement.attributes)

    def _find(self, instrument: Any, value: object) -> list[_Counted] | None:  # noqa: ANN401  # the SDK's
        streams = compat.streams_of(self.rest, instrument)
        found = None
        if streams is not None:
            found = [self._counted(instrument, one, value) for one in streams]
        return self._streams.setdefault(instrument, found)

    def _counted(self, instrument: Any, stream: Stream, value: object) -> _Counted:  # noqa: ANN401  # the SDK's
        scope = instrument.instrumentation_scope
        named = scope.name, scope.version or "", stream.name, instrument.unit, stream.description
        more: dict[str, Any] = {
            "scope_schema": scope.schema_url or "",
            "reader": self._reader,
            "whole": isinstance(value, int),
        }
        if stream.kind == "histogram":
            made: Instrument = _Histogram(self._measurements, named, stream.bounds, **more)
            return _Counted(made, made.record, stream)
        counter = isinstance(instrument, metrics.Counter)
        made = (Instrument if counter else _UpDownCounter)(self._measurements, named, (), **more)
        return _Counted(made, made.add, stream)

    def add_earlier(self, earlier: Earlier) -> None:
        """Add what was measured before."""
        found = self._streams.get(earlier.instrument)
        value = getattr(earlier.point, "value", 0)
        if found is None:
            found = self._find(earlier.instrument, value)
        for one in found or ():
            if one.stream == earlier.stream:
                one.add_point(earlier.point)

    def collect(self) -> Any:  # noqa: ANN401  # as the SDK has it
        """Return what the reader is to export itself; None if that is nothing."""
        return self.rest.collect()

    def after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        compat.renew_lock(self.rest)


class _Counted:
    """One stream of an instrument of the app's."""

    __slots__ = ("_instrument", "_keys", "_take", "stream")

    def __init__(self, instrument: Instrument, take: _Take, stream: Stream) -> None:
        self._instrument, self._take, self._keys = instrument, take, stream.keys
        self.stream = stream

    def take(self, value: float, attributes: Mapping[str, Any] | None) -> None:
        """Count a measurement."""
        keys = self._keys
        if keys is not None and attributes:
            attributes = {name: one for name, one in attributes.items() if name in keys}
        self._take(value, attributes)

    def add_point(self, point: Any) -> None:  # noqa: ANN401  # the SDK's
        """Add a data point; its attributes are those that are kept."""
        if self.stream.kind == "sum":
            self._instrument.add(point.value, point.attributes)
        else:
            self._instrument.add_counted(point.bucket_counts, point.sum, point.attributes)


class _UpDownCounter(Instrument):
    kind: ClassVar[Kind] = "updown"


class _Histogram(Instrument):
    kind: ClassVar[Kind] = "histogram"


def app_provider() -> object | None:
    """Return the SDK's MeterProvider that the app has set; None if it has set none, or another."""
    kind = getattr(sys.modules.get(_SDK), "MeterProvider", None)
    found = metrics.get_meter_provider()
    return found if kind is not None and isinstance(found, kind) else None


def are_expected() -> bool:
    """Tell whether the app has readers that can be counted for, or pool children may set some.

    Whoever has imported an exporter and set no provider may set it in the pool children, as
    OpenTelemetry documents it.
    """
    provider = app_provider()
    if provider is None:
        is_set = hasattr(metrics.get_meter_provider(), "force_flush")
        return reader_settings.are_imported() and not is_set
    try:
        resource = compat.resource_of(provider)
        readers = list(compat.storages_of(provider))
        return any(settings_of_reader(one, resource) is not None for one in readers)
    except UNEXPECTED:  # a release of the SDK that differs
        return False
