"""A MeterProvider for what tasks measure themselves, for workers whose app has set none.

Its counters and histograms write to memory that the worker's main process reads, so what a pool
child has measured is not lost with it, and all children of a worker make one set of series.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from opentelemetry import metrics

from taskobs import semconv
from taskobs.metrics.task_measurements import Instrument, TaskMeasurements
from taskobs.otel.app._metrics_compat import measure_with

_BOUNDS: Final = (
    *(0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0),
    *(1000.0, 2500.0, 5000.0, 7500.0, 10000.0),
)
"""The buckets of a histogram that says nothing of them, as OpenTelemetry's specification has it."""
_MOST_BOUNDS: Final = 200
_MOST_INSTRUMENTS: Final = 1_000


class TaskMeters(metrics.MeterProvider):
    """Gives meters that keep what is measured in a worker's processes."""

    def __init__(self) -> None:
        self.measurements = TaskMeasurements()
        self._instruments: dict[object, Instrument] = {}

    def install(self) -> bool:
        """Have instruments of the API's use this as long as the app sets no provider.

        False if the app has set one.
        """
        return measure_with(self)

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,  # noqa: ANN401, ARG002  # as the API has it
    ) -> metrics.Meter:
        """Return a meter."""
        return _Meter(self, name, version, schema_url)

    def instrument(self, make: _Make, *named: Any, bounds: tuple[float, ...] = ()) -> Any:  # noqa: ANN401  # of the class that makes it
        """Return an instrument: the same one for who makes it anew for each measurement."""
        key = make, named, bounds
        try:
            found = self._instruments.get(key)
        except TypeError:  # a name that is none
            return make(self.measurements, named, bounds)
        if found is None:
            found = make(self.measurements, named, bounds)
            if len(self._instruments) < _MOST_INSTRUMENTS:
                self._instruments[key] = found
        return found


class _Meter(metrics.NoOpMeter):
    """Makes counters and histograms; other instruments measure nothing."""

    def __init__(
        self, meters: TaskMeters, name: str, version: str | None, schema_url: str | None
    ) -> None:
        super().__init__(name, version, schema_url)
        self._meters = meters

    def create_counter(self, name: str, unit: str = "", description: str = "") -> metrics.Counter:
        """Return a counter."""
        made: metrics.Counter = self._made(_Counter, name, unit, description)
        return made

    def create_up_down_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> metrics.UpDownCounter:
        """Return a counter that may fall."""
        made: metrics.UpDownCounter = self._made(_UpDownCounter, name, unit, description)
        return made

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
        **_: object,
    ) -> metrics.Histogram:
        """Return a histogram."""
        if name == semconv.STOCK_HISTOGRAM:
            # Each run is in celery.task.duration; once more would cost each run its time.
            return metrics.NoOpHistogram(name, unit, description)
        bounds = _bounds(explicit_bucket_boundaries_advisory)
        made: metrics.Histogram = self._made(_Histogram, name, unit, description, bounds)
        return made

    def _made(
        self,
        make: _Make,
        name: str,
        unit: str,
        description: str,
        bounds: tuple[float, ...] = (),
    ) -> Any:  # noqa: ANN401  # of the class that makes it
        scope = self.name or "", self.version or ""
        return self._meters.instrument(
            make, *scope, name, unit or "", description or "", bounds=bounds
        )


def _bounds(given: Sequence[float] | None) -> tuple[float, ...]:
    try:
        found = tuple(sorted({float(bound) for bound in given})) if given is not None else _BOUNDS
    except (TypeError, ValueError, OverflowError):
        return _BOUNDS
    return found[:_MOST_BOUNDS]


class _Counter(Instrument, metrics.Counter):
    """Writes by itself what it is given: a call less for each measurement."""

    kind = "counter"


class _UpDownCounter(Instrument, metrics.UpDownCounter):
    """The same."""

    kind = "updown"


class _Histogram(Instrument, metrics.Histogram):
    """The same."""

    kind = "histogram"


_Make = type[Instrument]
