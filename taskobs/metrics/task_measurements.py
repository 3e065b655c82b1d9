"""What tasks measure themselves: counters and histograms in memory that outlives their process."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Final

from taskobs.metrics.counter_keys import Key, Measured, measured_key, overflow_of
from taskobs.metrics.families import Kind, LabelValue
from taskobs.protocol.sanitize import UNEXPECTED, sanitize

if TYPE_CHECKING:
    from taskobs.metrics.counter_memory import CounterRegion

MAX_SERIES: Final = 2_000
"""Sets of attributes of one instrument in a process, as the SDK has it."""
_MAX_ATTRIBUTES: Final = 32
_CHARS: Final = 255
_MOST: Final = sys.float_info.max
"""An infinite amount, or an int that is no float, would spoil the sum."""
_NUMBERS: Final = count(1)
Attributes = Mapping[str, Any] | None


class _Process:
    """What one process has written: where the sums of which series are."""

    __slots__ = ("indexes", "region", "series", "words")

    def __init__(self, region: CounterRegion | None) -> None:
        self.region = region
        self.words = None if region is None else region.words
        self.indexes: dict[Any, int] = {}
        """By instrument and attributes; 0 is nowhere."""
        self.series: dict[int, int] = {}
        """By instrument, how many there are."""


class TaskMeasurements:
    """Where the instruments of a process write, from ``begin`` to ``end``; any thread may.

    ``begin`` is given what returns the process's region of the memory. Nothing is taken of it
    before the first measurement.
    """

    def __init__(self) -> None:
        self._take: Callable[[], CounterRegion | None] | None = None
        self._process: _Process | None = None

    @property
    def on(self) -> bool:
        """Whether measurements are kept."""
        return self._take is not None

    def begin(self, take: Callable[[], CounterRegion | None]) -> None:
        """Keep what is measured from now on."""
        self._take, self._process = take, None

    def end(self) -> None:
        """Keep nothing more."""
        self._take = self._process = None

    def after_fork(self) -> None:
        """In a forked child: write to a region of its own."""
        self._process = None

    def process(self) -> _Process | None:
        """Return where this process writes; None if nothing is kept."""
        found, take = self._process, self._take
        if found is None and take is not None:
            found = self._process = _Process(take())
        return found


class Instrument:
    """One counter or histogram of the app's.

    It never raises: what is no number, or no attribute, is left out or made to fit.
    """

    __slots__ = ("_bounds", "_lowest", "_measurements", "_number", "_series", "_sum_at")

    kind: ClassVar[Kind] = "counter"

    def __init__(
        self,
        measurements: TaskMeasurements,
        named: Sequence[str],
        bounds: Sequence[float] = (),
        **more: Any,  # noqa: ANN401  # further fields of the series
    ) -> None:
        """``named``: the scope, its version, the instrument's name, its unit and description."""
        self._measurements = measurements
        self._number = next(_NUMBERS)
        scope, version, name, unit, meaning = (_text(text) for text in named)
        series = Measured(self.kind, scope, version, name, unit, meaning, tuple(bounds), ())
        self._series = series._replace(**more)
        self._bounds = tuple(bounds)
        self._sum_at = len(bounds) + 1
        self._lowest = -math.inf if self.kind == "updown" else 0.0

    def add(self, amount: float, attributes: Attributes = None, *_: object, **__: object) -> None:
        """Add to the sum; what later releases of the API give besides is ignored."""
        try:
            if self._lowest <= amount <= _MOST and (found := self._find(attributes)):
                words, index = found
                # One step: see `CounterRegion.words`.
                words[index] += amount
        except UNEXPECTED:  # not a soft time limit: that is raised here, too, and is the task's
            return

    def record(
        self, amount: float, attributes: Attributes = None, *_: object, **__: object
    ) -> None:
        """Add to the histogram; ignores what ``add`` ignores."""
        try:
            if 0 <= amount <= _MOST and (found := self._find(attributes)):
                words, index = found
                bucket = index + bisect_left(self._bounds, amount)
                total = index + self._sum_at
                # No call in between: neither a time limit's signal nor another thread sees half.
                words[bucket] += 1
                words[total] += amount
        except UNEXPECTED:
            return

    def add_counted(self, counts: Sequence[int], total: float, attributes: Attributes) -> None:
        """Add what somebody else has counted to the histogram: the counts of all buckets."""
        found = self._find(attributes)
        if found is not None:
            words, index = found
            for bucket, number in enumerate(counts):
                words[index + bucket] += number
            words[index + self._sum_at] += total

    def _find(self, attributes: Attributes) -> tuple[memoryview[float], int] | None:
        process = self._measurements.process()
        if process is None or process.words is None:
            return None
        try:
            key: Any = (self._number, frozenset(attributes.items())) if attributes else self._number
            index = process.indexes.get(key)
        except TypeError:  # a list among the values
            key = self._number, frozenset(_labels(attributes))
            index = process.indexes.get(key)
        if index is None:
            index = self._allocate(process, key, attributes)
        return (process.words, index) if index else None

    def _allocate(self, process: _Process, key: object, attributes: Attributes) -> int:
        region = process.region
        if region is None:
            return 0
        width = self._sum_at + 1 if self._series.kind == "histogram" else 1
        whole = measured_key(self._series._replace(labels=_labels(attributes)))
        # It may be there: beyond a number of them, indexes are not kept here.
        index = region.find(whole) or self._allocate_new(process, region, whole, width)
        if not index:
            index = region.allocate(overflow_of(whole), width, last=True)
        if len(process.indexes) < 2 * MAX_SERIES:
            process.indexes[key] = index
        return index

    def _allocate_new(self, process: _Process, region: CounterRegion, key: Key, width: int) -> int:
        number = process.series.get(self._number, 0)
        index = region.allocate(key, width) if number < MAX_SERIES else 0
        if index:
            process.series[self._number] = number + 1
        return index


def _labels(attributes: Attributes) -> tuple[tuple[str, LabelValue], ...]:
    found = [(_text(name), _value(value)) for name, value in (attributes or {}).items()]
    return tuple(sorted(found, key=lambda pair: pair[0])[:_MAX_ATTRIBUTES])


def _value(value: object) -> LabelValue:
    if isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    return _text(value)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else str(sanitize(value))
    return str(sanitize(text[:_CHARS]))
