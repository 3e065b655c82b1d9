"""What a panel of a dashboard shows, before it is Grafana's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["timeseries", "stat", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query of PromQL, and what its result is called; ``{{label}}`` is replaced by its value."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. ``description`` says what it shows, and what to look for."""

    title: str
    description: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    unit: str = "short"
    """As Grafana names it: ``s``, ``short``."""
    width: int = 8
    """Of 24 columns."""
    height: int = 8
    stacked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of panels, which can be folded; repeated for each value of ``repeat``, a variable."""

    title: str
    panels: tuple[Panel, ...]
    repeat: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A choice at the top of a dashboard, by the values of a metric's label."""

    name: str
    label: str
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A dashboard; ``uid`` is a part of its address, so it stays as it is."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in their order."""
        return tuple(panel for row in self.rows for panel in row.panels)
