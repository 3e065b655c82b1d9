"""A dashboard as the JSON that Grafana imports.

https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, Final

from taskobs.dashboards.panels import Dashboard, Panel, Query, Row, Variable

_SCHEMA: Final = 39
"""Grafana 10 and 11 write it, and newer ones convert it."""
_COLUMNS: Final = 24
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def as_grafana(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard as Grafana's JSON."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["celery", "taskobs"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [_SOURCE_CHOICE, *map(_variable, dashboard.variables)]},
        "panels": [*_panels(dashboard)],
    }


_SOURCE_CHOICE: Final = {
    "name": "datasource",
    "label": "Data source",
    "type": "datasource",
    "query": "prometheus",
}


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,  # when the range of time changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    """Give rows and panels, placed from left to right; panels of a row have one height."""
    numbers = count(1)
    y = 0
    for row in dashboard.rows:
        yield _row(row, next(numbers), y)
        y += 1
        x = 0
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                x, y = 0, y + panel.height
            position = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            yield {"id": next(numbers), "gridPos": position, **_panel(panel)}
            x += panel.width
        y += max(panel.height for panel in row.panels)


def _row(row: Row, number: int, y: int) -> dict[str, Any]:
    position = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
    found = {"id": number, "type": "row", "title": row.title, "gridPos": position}
    # What follows a row that isn't folded belongs to it.
    found |= {"collapsed": False, "panels": []}
    return {**found, "repeat": row.repeat} if row.repeat else found


def _panel(panel: Panel) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none"}
        custom = {"fillOpacity": 10, "showPoints": "never", "stacking": stacking}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": custom},
            "overrides": [],
        },
        "targets": [_target(query, panel, f"Q{n}") for n, query in enumerate(panel.queries)],
        **({"transformations": _one_table(panel)} if panel.kind == "table" else {}),
    }


def _one_table(panel: Panel) -> list[dict[str, Any]]:
    """Put the results of all queries into one table, by their labels."""
    names = {f"Value #Q{number}": query.legend for number, query in enumerate(panel.queries)}
    organized = {"excludeByName": {"Time": True}, "renameByName": names}
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organized}]


def _target(query: Query, panel: Panel, name: str) -> dict[str, Any]:
    now = panel.kind != "timeseries"
    return {
        "refId": name,
        "datasource": _SOURCE,
        "expr": query.expression,
        "legendFormat": query.legend or "__auto",
        "instant": now,
        "range": not now,
        "format": "table" if panel.kind == "table" else "time_series",
    }
