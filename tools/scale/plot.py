"""The plot of docs/scale.md: what a Collector does as the rate of spans rises."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tools.scale.knee import Knee, Step, knee
from tools.scale.page import TITLES

COLOURS: Final = {"plain": "#7fb0d8", "tail": "#1f6fb2"}
PAST: Final = "#c2453d"


def draw(found: Knee, file: Path) -> None:
    """Write the plot as SVG, its words as text."""
    import matplotlib as mpl

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "taskobs", "font.size": 9})
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(14, 3.2), layout="constrained")
    axes = figure.subplots(1, 4)
    titles = ("accepted, 1,000 spans/s", "99 % of responses within, s", "cores", "memory, MB")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, loc="left", fontsize=9)
        axis.set_xlabel("due, 1,000 spans/s")
        axis.spines[["top", "right"]].set_visible(False)
    for kind, steps in found.steps.items():
        for axis, values in zip(axes, _values(steps), strict=True):
            _line(axis, kind, steps, values)
    axes[0].legend(frameon=False)
    axes[1].set_yscale("log")
    figure.savefig(file, metadata={"Date": None})


def _values(steps: list[Step]) -> list[list[float]]:
    return [
        [step.accepted / 1000 for step in steps],
        [step.high for step in steps],
        [step.busy for step in steps],
        [step.memory for step in steps],
    ]


def _line(axis: Any, kind: str, steps: list[Step], values: list[float]) -> None:  # noqa: ANN401  # matplotlib ships few types
    due = [step.due / 1000 for step in steps]
    axis.plot(due, values, marker="o", markersize=3, color=COLOURS[kind], label=TITLES[kind])
    top = steps.index(knee(steps))
    axis.plot(due[top], values[top], marker="o", markersize=8, fillstyle="none", color=PAST)
