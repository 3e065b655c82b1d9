"""Run the examples, and draw the trace of a request of each: writes ``docs/trace-*.svg``.

Each line is a span, below its parent; its bar says when it began and ended. Needs matplotlib.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final

from taskobs.testing.receiver import Receiver
from taskobs.view.traces import Node, Trace, assemble

ROOT: Final = Path(__file__).resolve().parent.parent
EXAMPLES: Final = ("flask_app", "django_app", "fastapi_app")
COLOURS: Final = {"publish": "#3b6fb6", "run": "#d18f2c", "other": "#7a8b99"}
FAILED: Final = "#b8433a"
INDENT: Final = "\N{NO-BREAK SPACE}" * 3
"""Viewers of SVG drop plain spaces at the beginning of a text."""
LONGEST: Final = 34
"""Characters of a name that are shown."""
MILLISECONDS: Final = 1e6
"""Nanoseconds in one."""


def main(names: Sequence[str]) -> None:
    """Draw the examples of these names, or all."""
    for name in names or EXAMPLES:
        path = ROOT / "docs" / f"trace-{name}.svg"
        draw(last_request(run(name)), name, path)
        print(f"wrote {path.name}")


def run(name: str) -> Receiver:
    """Run an example as its ``make`` target does."""
    spec = spec_from_file_location("run_example", ROOT / "examples/run.py")
    assert spec is not None  # noqa: S101  # it is a file of this tree
    assert spec.loader is not None  # noqa: S101  # as above
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    received: Receiver = module.run(name)
    return received


def last_request(receiver: Receiver) -> Trace:
    """Give the trace of the order with the declined card."""
    traces = assemble(receiver.spans)
    return [one for one in traces if any(root.span.kind == "server" for root in one.roots)][-1]


def draw(trace: Trace, name: str, path: Path) -> None:
    """Draw a trace as Jaeger shows it."""
    import matplotlib as mpl

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "taskobs", "font.size": 8})
    from matplotlib.figure import Figure

    rows = [row for root in trace.roots for row in root.walk()]
    figure: Any = Figure(figsize=(9, 0.6 + 0.24 * len(rows)), layout="constrained")
    axes: Any = figure.subplots()
    began = min(node.span.start_ns for _, node in rows)
    for line, (_, node) in enumerate(rows):
        bar(axes, line, node, began, trace.seconds * 1000 / 150)
    labels = [label(depth, node) for depth, node in rows]
    axes.set_yticks(range(len(rows)), labels, ha="left", family="monospace")
    axes.tick_params(axis="y", length=0, pad=6.2 * max(map(len, labels)))
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="milliseconds", title=name)
    axes.spines[["left", "right", "top"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def bar(axes: Any, line: int, node: Node, began: int, least: float) -> None:  # noqa: ANN401  # matplotlib's
    """Draw one span, of at least so many milliseconds that it is seen."""
    start = (node.span.start_ns - began) / MILLISECONDS
    colour = FAILED if node.outcome == "failed" else COLOURS[node.role]
    axes.barh(line, max(node.seconds * 1000, least), left=start, color=colour, height=0.6)


def label(depth: int, node: Node) -> str:
    """Give a span's name, indented, with no path of the machine that ran it."""
    name = node.span.name.split(" /tmp")[0]
    return INDENT * depth + (name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…")


if __name__ == "__main__":
    main(sys.argv[1:])
