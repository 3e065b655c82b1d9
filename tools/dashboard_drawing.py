"""Draws a dashboard as SVG, from what Prometheus answers to the queries of its panels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

Axes: TypeAlias = Any
"""Of matplotlib, whose types say little."""
COLUMNS: Final = 24
COLUMN, LINE = 0.6, 0.32
"""Inches of the dashboard's grid."""
COLOURS: Final = (
    *("#3871dc", "#3f9142", "#e0752d", "#d0384b", "#8f4bb8"),
    *("#c7a20a", "#1a7f8e", "#8ab8ff", "#96d98d", "#7c2e54"),
)
NAMED: Final = {
    "green": "#73bf69",
    "yellow": "#f2cc0c",
    "red": "#e02f44",
    "purple": "#8f4bb8",
}
"""Those that a dashboard calls by their name."""
INK: Final = "#24292e"
FAINT: Final = "#d8dde3"
TABLE_LINES: Final = 7
LEGENDS: Final = 8
SECONDS: Final = (("min", 60), ("s", 1), ("ms", 1e-3))
THOUSAND: Final = 1_000
SUFFIXES: Final = {"short": "", "suffix:/s": "/s", "suffix:/min": "/min"}


class Series(NamedTuple):
    """One series of an answer: its labels, and its values by the time in seconds."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]

    @property
    def last(self) -> float:
        """The latest value."""
        return self.points[-1][1]


class Answered(NamedTuple):
    """A panel as the JSON of Grafana has it, and what each of its queries has answered."""

    panel: Mapping[str, Any]
    answers: Sequence[Sequence[Series]]

    @property
    def has_data(self) -> bool:
        """Whether any answer has a number."""
        found = (point for answer in self.answers for one in answer for point in one.points)
        return any(math.isfinite(value) for _, value in found)

    @property
    def named(self) -> Iterator[tuple[str, Series]]:
        """Give all series with their legends."""
        for target, answer in zip(self.panel["targets"], self.answers, strict=True):
            for one in answer:
                yield legend(target["legendFormat"], one.labels), one


def legend(text: str, labels: Mapping[str, str]) -> str:
    """Return a legend as Grafana fills it in."""
    for label, value in labels.items():
        text = text.replace(f"{{{{{label}}}}}", value)
    return text


def number(value: float, unit: str) -> str:
    """Return a number in its unit, as short as Grafana writes it."""
    if not math.isfinite(value):
        return "-"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    if unit == "s":
        name, size = next((one for one in SECONDS if abs(value) >= one[1]), ("s", 1))
        return f"{value / size:.3g} {name}"
    digits = f"{value:.3g}" if abs(value) < THOUSAND else f"{value:,.0f}"
    return f"{digits}{SUFFIXES[unit]}"


def draw(panels: Sequence[Answered], file: Path) -> None:
    """Write panels where the grid has them, the words as text."""
    import matplotlib as mpl

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "taskobs", "font.size": 7})
    from matplotlib.figure import Figure

    lines = max(one.panel["gridPos"]["y"] + one.panel["gridPos"]["h"] for one in panels)
    figure: Any = Figure(figsize=(COLUMNS * COLUMN, lines * LINE), facecolor="white")
    for one in panels:
        box = one.panel["gridPos"]
        left, top = box["x"] * COLUMN, (lines - box["y"]) * LINE
        _draw_one(Canvas(figure, left, top, box["w"] * COLUMN, box["h"] * LINE), one)
    figure.savefig(file, metadata={"Date": None})


class Canvas(NamedTuple):
    """Where a panel is drawn, in inches."""

    figure: Any
    left: float
    top: float
    width: float
    height: float

    def axes(self, *, left: float, right: float, top: float, bottom: float) -> Axes:
        """Return axes with these margins."""
        width, height = self.figure.get_size_inches()
        return self.figure.add_axes(
            (
                (self.left + left) / width,
                (self.top - self.height + bottom) / height,
                (self.width - left - right) / width,
                (self.height - top - bottom) / height,
            )
        )

    def text(self, x: float, y: float, text: str, **style: object) -> None:
        """Write a text, by its distance from the left and the top."""
        width, height = self.figure.get_size_inches()
        self.figure.text(
            *((self.left + x) / width, (self.top - y) / height, text), **{"color": INK, **style}
        )


def _draw_one(canvas: Canvas, one: Answered) -> None:
    if one.panel["type"] == "row":
        canvas.text(0.1, 0.22, one.panel["title"], weight="bold", size=9)
        return
    frame = canvas.axes(left=0.04, right=0.04, top=0.04, bottom=0.04)
    frame.set(xticks=[], yticks=[])
    frame.spines[:].set_color(FAINT)
    canvas.text(0.12, 0.2, one.panel["title"], weight="bold")
    DRAWN[one.panel["type"]](canvas, one)


def _stat(canvas: Canvas, one: Answered) -> None:
    unit = one.panel["fieldConfig"]["defaults"]["unit"]
    [(_, series), *_] = one.named
    x, y = canvas.width / 2, canvas.height * 0.65
    canvas.text(x, y, number(series.last, unit), size=20, ha="center", color=COLOURS[1])


def _table(canvas: Canvas, one: Answered) -> None:
    unit = one.panel["fieldConfig"]["defaults"]["unit"]
    columns = [target["legendFormat"] for target in one.panel["targets"]]
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for name, series in one.named:
        rows.setdefault(tuple(series.labels.values()), {})[name] = series.last
    step = 0.24
    for index, name in enumerate(columns):
        x = canvas.width - 0.15 - (len(columns) - 1 - index) * 1.1
        canvas.text(x, 0.45, name, ha="right", color="#6a737d")
        for line, values in enumerate(list(rows.values())[:TABLE_LINES], 1):
            text = number(values[name], unit) if name in values else "-"
            canvas.text(x, 0.45 + step * line, text, ha="right")
    for line, labels in enumerate(list(rows)[:TABLE_LINES], 1):
        canvas.text(0.15, 0.45 + step * line, " ".join(labels))


def _graph(canvas: Canvas, one: Answered) -> None:
    defaults = one.panel["fieldConfig"]["defaults"]
    axes = canvas.axes(left=0.65, right=0.2, top=0.38, bottom=0.55)
    named = [*one.named][:LEGENDS]
    colours = dict(zip((name for name, _ in named), COLOURS, strict=False)) | {
        override["matcher"]["options"]: NAMED[override["properties"][0]["value"]["fixedColor"]]
        for override in one.panel["fieldConfig"]["overrides"]
    }
    if named and defaults["custom"]["stacking"]["mode"] == "normal":
        _stack(axes, named, colours)
    else:
        for name, series in named:
            axes.plot(*_columns(series), color=colours[name], label=name, linewidth=1)
    _scales(axes, defaults["unit"])
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0, -0.13),
        borderaxespad=0.2,
        ncols=4,
        frameon=False,
        fontsize=6,
        handlelength=1,
        columnspacing=1,
    )


def _columns(series: Series) -> tuple[list[datetime], list[float]]:
    times = [datetime.fromtimestamp(at, timezone.utc) for at, _ in series.points]
    return times, [value for _, value in series.points]


def _stack(axes: Axes, named: Sequence[tuple[str, Series]], colours: Mapping[str, str]) -> None:
    times = sorted({at for _, series in named for at, _ in series.points})
    values = [dict(series.points) for _, series in named]
    axes.stackplot(
        [datetime.fromtimestamp(at, timezone.utc) for at in times],
        [[one.get(at, 0.0) for at in times] for one in values],
        labels=[name for name, _ in named],
        colors=[colours[name] for name, _ in named],
        alpha=0.6,
    )


def _scales(axes: Axes, unit: str) -> None:
    from matplotlib import dates
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    def written(value: float, _: object) -> str:
        return number(value, unit)

    highest = axes.dataLim.y1
    axes.set_ylim(0, 1.05 * highest if highest > 0 else 1)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.tick_params(length=0, labelsize=6, colors="#6a737d")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(written))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=4, maxticks=8))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]


DRAWN: Final[Mapping[str, Callable[[Canvas, Answered], None]]] = {
    "stat": _stat,
    "table": _table,
    "timeseries": _graph,
}
