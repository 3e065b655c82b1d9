"""What a panel of a dashboard shows, before it is Grafana's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["timeseries", "stat", "table"]
Unit = Literal["short", "s", "bytes", "percentunit", "suffix:/s", "suffix:/min"]
"""As Grafana names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query of PromQL, and what its result is called; ``{{label}}`` is replaced by its value."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A link to another page. Variables of the dashboard are replaced in it."""

    title: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. ``description`` says what it shows, and what to look for."""

    title: str
    description: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    unit: Unit = "short"
    width: int = 8
    """Of 24 columns."""
    height: int = 8
    stacked: bool = False
    exemplars: bool = False
    """Whether traces are shown as points."""
    colours: Mapping[str, str] | None = None
    """By the legend of a line, as Grafana names them; others get any."""
    links: Mapping[str, tuple[Link, ...]] | None = None
    """Of a table, by the label of a column: where its values lead, as ``${__value.raw}``."""


Series = Mapping[str, str]
"""By what its result is called, a query of PromQL."""


def graph(  # noqa: PLR0913  # each is something that panels differ in
    title: str,
    description: str,
    series: Series,
    *,
    unit: Unit = "short",
    width: int = 8,
    stacked: bool = False,
    exemplars: bool = False,
    colours: Mapping[str, str] | None = None,
) -> Panel:
    """Return a panel of lines over the time."""
    return Panel(
        title=title,
        description=description,
        queries=_queries(series),
        unit=unit,
        width=width,
        stacked=stacked,
        exemplars=exemplars,
        colours=colours,
    )


def stat(
    title: str, description: str, expression: str, *, unit: Unit = "short", width: int = 4
) -> Panel:
    """Return a panel of one number."""
    return Panel(
        title=title,
        description=description,
        queries=(Query(expression=expression),),
        kind="stat",
        unit=unit,
        width=width,
        height=4,
    )


def table(  # noqa: PLR0913  # same
    title: str,
    description: str,
    series: Series,
    *,
    unit: Unit = "short",
    width: int = 8,
    links: Mapping[str, tuple[Link, ...]] | None = None,
) -> Panel:
    """Return a panel with a column for each label, and one for each query."""
    return Panel(
        title=title,
        description=description,
        queries=_queries(series),
        kind="table",
        unit=unit,
        width=width,
        links=links,
    )


def _queries(series: Series) -> tuple[Query, ...]:
    return tuple(Query(expression=one, legend=legend) for legend, one in series.items())


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
    metric: str
    """A selector of series."""
    values: str
    """The label."""
    several: bool = True
    """Whether more than one may be chosen, or all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextVariable:
    """A text at the top of a dashboard, which anybody may change."""

    name: str
    label: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A dashboard; ``uid`` is a part of its address, so it stays as it is."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable | TextVariable, ...]
    rows: tuple[Row, ...]
    links: tuple[Link, ...] = ()

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in their order."""
        return tuple(panel for row in self.rows for panel in row.panels)
