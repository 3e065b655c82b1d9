"""Writes dashboards, rules and their tests into a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Final

from taskobs.dashboards.by_task import BY_TASK
from taskobs.dashboards.grafana import as_grafana
from taskobs.dashboards.overview import OVERVIEW
from taskobs.dashboards.queues import QUEUES

DASHBOARDS: Final = {"overview": OVERVIEW, "by-task": BY_TASK, "queues": QUEUES}
RULES: Final = "prometheus/rules.yml"
RULE_TESTS: Final = "prometheus/rules_test.yml"
CONFIG: Final = "prometheus/prometheus.yml"
COMPOSE: Final = "compose.yaml"
_COPIED: Final = (
    *(RULES, RULE_TESTS, CONFIG, COMPOSE),
    "provisioning/datasources/prometheus.yml",
    "provisioning/dashboards/taskobs.yml",
)


def write(folder: Path) -> list[Path]:
    """Write all files below ``folder``, which is made, over older ones; return their paths."""
    written: list[Path] = []
    for name, text in _texts():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _texts() -> Iterator[tuple[str, str]]:
    """Give all files: their paths in the folder, and what is in them."""
    for name, dashboard in DASHBOARDS.items():
        yield f"grafana/{name}.json", json.dumps(as_grafana(dashboard), indent=2) + "\n"
    kept = files("taskobs.dashboards") / "files"
    for name in _COPIED:
        yield name, kept.joinpath(*name.split("/")).read_text(encoding="utf-8")
