"""The plot of the page: what each set-up adds to bare, and how many tasks a worker does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from bench.page import TITLES, WHATS, added
from bench.peers import PEERS
from bench.results import Results

SHOWN: Final = (
    *("floor", "spans, direct", "spans, relay"),
    *("spans + Sentry, direct", "spans + Sentry, relay", "everything, relay", "stock pair"),
)
COLOURS: Final = {
    "floor": "#8a8f98",
    "stock pair": "#c2453d",
    "direct": "#7fb0d8",
    "relay": "#1f6fb2",
}


def draw(results: Results, file: Path) -> None:
    """Write the plot as SVG, its words as text."""
    import matplotlib as mpl

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "taskobs", "font.size": 9})
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(14, 3.2), layout="constrained")
    axes = figure.subplots(1, 5)
    for axis, what in zip(axes, WHATS, strict=False):
        values = {name: added(results.single, name, what) for name in SHOWN}
        _bars(axis, f"{TITLES[what]}: + CPU µs", values)
    rates = {
        name: worked.rate.median for name, worked in results.workers.items() if name not in PEERS
    }
    _bars(axes[4], "tasks per second, prefork", rates)
    for axis in axes[1:4]:
        axis.set_yticklabels([])
    figure.savefig(file, metadata={"Date": None})


def _bars(axis: Any, title: str, values: dict[str, float]) -> None:
    colours = [
        next((colour for part, colour in COLOURS.items() if part in name), "#b9bec6")
        for name in values
    ]
    bars = axis.barh(list(values), list(values.values()), color=colours)
    axis.bar_label(bars, fmt="{:,.0f}", padding=2)
    axis.invert_yaxis()
    axis.set_title(title, loc="left", fontsize=9)
    axis.margins(x=0.2)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.xaxis.set_visible(False)
