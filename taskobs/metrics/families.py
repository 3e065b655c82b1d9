"""What is exported: metric families of plain values, named as in OpenTelemetry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Kind = Literal["counter", "updown", "gauge", "histogram"]
"""An "updown" is a sum that may fall."""
LabelValue = str | bool | int | float
Labels = Mapping[str, LabelValue]

_UNITS: Final = {"s": "seconds", "By": "bytes"}


class Sample(NamedTuple):
    """One series of a counter or gauge: its labels, by the names of attributes, and its value."""

    labels: Labels
    value: float


class Exemplar(NamedTuple):
    """An observation of a bucket and what leads to it, such as a trace id."""

    labels: Labels
    value: float
    at: float
    """Seconds since the epoch."""


class Distribution(NamedTuple):
    """One series of a histogram. ``counts`` are not cumulated; the last is above all bounds."""

    labels: Labels
    counts: Sequence[int]
    total: float
    exemplars: Mapping[int, Exemplar]
    """By the index of their bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All series of one metric."""

    name: str
    """As in OpenTelemetry: ``celery.queue.messages``."""
    kind: Kind
    meaning: str
    unit: str = ""
    """As in OpenTelemetry: ``s``, ``By``; one in braces is an annotation and no unit."""
    scope: str = ""
    """Of an instrument of the app's, the instrumentation scope; what is counted here has none."""
    scope_version: str = ""
    scope_schema: str = ""
    """The URL of its schema."""
    samples: Sequence[Sample] = ()
    bounds: Sequence[float] = ()
    """The upper bounds of a histogram's buckets, but for the last."""
    distributions: Sequence[Distribution] = ()

    @property
    def prometheus_unit(self) -> str:
        """The unit as Prometheus writes it; empty if there is none."""
        return _UNITS.get(self.unit, "")

    @property
    def prometheus_name(self) -> str:
        """The name as Prometheus writes it, without ``_total`` and the like."""
        name = plain_name(self.name)
        *words, last = name.split("_")
        if self.kind == "counter" and last == "total":  # every counter ends in it there
            name = "_".join(words)
        unit = self.prometheus_unit
        return f"{name}_{unit}" if unit and not name.endswith(f"_{unit}") else name


def plain_name(name: str) -> str:
    """Return the name of a metric or attribute as Prometheus allows it."""
    plain = "".join(char if char.isalnum() and char.isascii() else "_" for char in name)
    return plain if plain and not plain[0].isdigit() else f"_{plain}"


def label_text(value: LabelValue) -> str:
    """Return a value as Prometheus writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


Groups = list[tuple[int, list[Family]]]
"""Families, with the nanosecond of the epoch since which they were counted."""
