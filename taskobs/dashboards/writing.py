"""Writes dashboards, rules and their tests into a folder."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Final

from taskobs.dashboards.grafana import as_grafana
from taskobs.dashboards.queues import QUEUES

DASHBOARDS: Final = {"queues": QUEUES}
RULES: Final = "rules.yml"
RULE_TESTS: Final = "rules_test.yml"


def write(folder: Path) -> list[Path]:
    """Write all files below ``folder``, which is made, over older ones; return their paths."""
    grafana, prometheus = folder / "grafana", folder / "prometheus"
    for each in (grafana, prometheus):
        each.mkdir(parents=True, exist_ok=True)
    texts = {
        grafana / f"{name}.json": json.dumps(as_grafana(dashboard), indent=2) + "\n"
        for name, dashboard in DASHBOARDS.items()
    }
    for name in (RULES, RULE_TESTS):
        source = files("taskobs.dashboards") / "files" / name
        texts[prometheus / name] = source.read_text(encoding="utf-8")
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)
