"""A dashboard as the JSON that Grafana imports.

https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, Final

from taskobs.dashboards.panels import Dashboard, Link, Panel, Query, Row, TextVariable, Variable

_SCHEMA: Final = 39
"""Grafana 10 and 11 write it, and newer ones convert it."""
_COLUMNS: Final = 24
_TAG: Final = "taskobs"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def as_grafana(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard as Grafana's JSON."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["celery", _TAG],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [_SOURCE_CHOICE, *map(_variable, dashboard.variables)]},
        "annotations": {"list": []},
        "links": [_OTHER_DASHBOARDS, *map(_dashboard_link, dashboard.links)],
        "panels": [*_panels(dashboard)],
    }


_SOURCE_CHOICE: Final = {
    "name": "datasource",
    "label": "Data source",
    "type": "datasource",
    "query": "prometheus",
}
_LINK: Final[dict[str, Any]] = {
    "type": "link",
    "icon": "external link",
    "tags": [],
    "tooltip": "",
    "asDropdown": False,
    "targetBlank": True,
    "includeVars": False,
    "keepTime": False,
}
_OTHER_DASHBOARDS: Final[dict[str, Any]] = {
    **_LINK,
    "type": "dashboards",
    "title": "Celery",
    "tags": [_TAG],
    "targetBlank": False,
    "includeVars": True,
    "keepTime": True,
}


def _dashboard_link(link: Link) -> dict[str, Any]:
    return {**_LINK, **_link(link)}


def _link(link: Link) -> dict[str, Any]:
    return {"title": link.title, "url": link.url}


def _variable(variable: Variable | TextVariable) -> dict[str, Any]:
    named = {"name": variable.name, "label": variable.label}
    if isinstance(variable, TextVariable):
        current = {"text": variable.value, "value": variable.value}
        return {**named, "type": "textbox", "query": variable.value, "current": current}
    query = f"label_values({variable.metric}, {variable.values})"
    found: dict[str, Any] = {
        **named,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": variable.name},
        "refresh": 2,  # when the range of time changes
        "sort": 1,
        "multi": variable.several,
        "includeAll": variable.several,
    }
    everything = {"allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
    return {**found, **everything} if variable.several else found


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    """Give rows and panels, placed from left to right, and below what is above them."""
    numbers = count(1)
    y = 0
    for row in dashboard.rows:
        yield _row(row, next(numbers), y)
        x, y, below = 0, y + 1, y + 1
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                x, y = 0, below
            position = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            yield {"id": next(numbers), "gridPos": position, **_panel(panel)}
            x, below = x + panel.width, max(below, y + panel.height)
        y = below


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
            "overrides": [*_overrides(panel)],
        },
        "targets": [_target(query, panel, f"Q{n}") for n, query in enumerate(panel.queries)],
        **({"transformations": _one_table(panel)} if panel.kind == "table" else {}),
    }


def _overrides(panel: Panel) -> Iterator[dict[str, Any]]:
    for column, links in (panel.links or {}).items():
        yield _override(column, "links", [*map(_link, links)])
    for line, colour in (panel.colours or {}).items():
        yield _override(line, "color", {"mode": "fixed", "fixedColor": colour})


def _override(name: str, field: str, value: object) -> dict[str, Any]:
    """Return what is set of one column or line."""
    properties = [{"id": field, "value": value}]
    return {"matcher": {"id": "byName", "options": name}, "properties": properties}


def _one_table(panel: Panel) -> list[dict[str, Any]]:
    """Put the results of all queries into one table, by their labels."""
    names = {f"Value #Q{number}": query.legend for number, query in enumerate(panel.queries)}
    if len(panel.queries) == 1:  # Grafana numbers the columns of several queries only
        names["Value"] = panel.queries[0].legend
    organized = {"excludeByName": {"Time": True}, "renameByName": names}
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organized}]


def _target(query: Query, panel: Panel, name: str) -> dict[str, Any]:
    over_time = panel.kind == "timeseries"
    return {
        "refId": name,
        "datasource": _SOURCE,
        "expr": query.expression,
        "legendFormat": query.legend or "__auto",
        "instant": not over_time,
        "range": over_time,
        "exemplar": over_time and panel.exemplars,
        "format": "table" if panel.kind == "table" else "time_series",
    }
