"""The files that ``taskobs dashboards`` writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from taskobs import semconv
from taskobs.cli.main import main
from taskobs.dashboards.grafana import as_grafana
from taskobs.dashboards.panels import Dashboard
from taskobs.dashboards.writing import COMPOSE, CONFIG, DASHBOARDS, RULE_TESTS, RULES, write
from taskobs.metrics.families import plain_name

METRICS = re.compile(r"\b(?:celery|taskobs)_\w+")
EVERY = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)


def names() -> set[str]:
    """Give all names of metrics and labels, as Prometheus has them, units apart."""
    return {
        plain_name(value)
        for constant, value in vars(semconv).items()
        if constant.startswith(("METRIC_", "CELERY_"))
    }


def panels(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in made["panels"] if panel["type"] != "row"]


def test_all_files_are_written(tmp_path: Path) -> None:
    """I name a folder, and get the dashboards, the rules and their tests; twice is once."""
    out = tmp_path / "a" / "b"
    first, result = (CliRunner().invoke(main, ["dashboards", "--out", str(out)]) for _ in "12")
    assert (first.exit_code, result.exit_code) == (0, 0), result.output
    written = {str(path.relative_to(out)) for path in out.rglob("*.*") if path.is_file()}
    expected = {RULES, RULE_TESTS, CONFIG, COMPOSE, *(f"grafana/{one}.json" for one in DASHBOARDS)}
    assert expected <= written
    assert {line.removeprefix(f"{out}/") for line in result.output.splitlines()} == written
    for name, dashboard in DASHBOARDS.items():
        text = (out / "grafana" / f"{name}.json").read_text(encoding="utf-8")
        assert json.loads(text) == as_grafana(dashboard)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    """I name what can't be a folder, and read why."""
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["dashboards", "--out", str(tmp_path / "file" / "x")])
    assert result.exit_code == 1
    assert "can't be written to: Not a directory" in result.output


@EVERY
def test_each_panel_says_what_it_shows(dashboard: Dashboard) -> None:
    """I hover over any panel, and read what it shows; its numbers have a unit."""
    made = as_grafana(dashboard)
    for panel in panels(made):
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
    ids = [panel["id"] for panel in made["panels"]]
    assert len(set(ids)) == len(ids)


@EVERY
def test_panels_do_not_overlap(dashboard: Dashboard) -> None:
    """I open the dashboard, and see every panel whole."""
    taken: set[tuple[int, int]] = set()
    for panel in as_grafana(dashboard)["panels"]:
        position = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(position["x"], position["x"] + position["w"])
            for y in range(position["y"], position["y"] + position["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


@EVERY
def test_variables_are_used_and_there(dashboard: Dashboard) -> None:
    """I choose a job or a queue, and every panel is of it."""
    made = as_grafana(dashboard)
    there = {variable["name"] for variable in made["templating"]["list"]}
    text = json.dumps(made["panels"])
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
    assert used == there
    for panel in panels(made):
        for target in panel["targets"]:
            assert "$job" in target["expr"], panel["title"]


@EVERY
def test_queries_use_names_that_exist(dashboard: Dashboard) -> None:
    """A metric is renamed, and no panel is left without data."""
    for panel in dashboard.panels:
        for query in panel.queries:
            used = METRICS.findall(query.expression)
            assert used
            assert {name.removesuffix("_seconds") for name in used} <= names(), panel.title


def test_the_compose_file_leads_to_the_other_files(tmp_path: Path) -> None:
    """I start the servers where I wrote the files: they read them, and only I can reach them."""
    yaml = pytest.importorskip("yaml")
    write(tmp_path)
    servers = yaml.safe_load((tmp_path / COMPOSE).read_text(encoding="utf-8"))["services"]
    inside: dict[str, Path] = {}
    for server in servers.values():
        assert re.search(r":v?\d+\.\d+\.\d+$", server["image"]), "not pinned"
        for volume in server["volumes"]:
            here, there, mode = volume.split(":")
            assert (tmp_path / here).is_dir()
            assert mode == "ro"
            inside[there] = tmp_path / here
    command = " ".join(servers["prometheus"]["command"])
    config = re.search(r"--config\.file=(/etc/prometheus)/(\S+)", command)
    assert config
    assert (inside[config[1]] / config[2]).is_file()
    assert "--web.listen-address=127.0.0.1:9090" in command
    assert servers["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    provisioning = inside["/etc/grafana/provisioning"]
    [source] = read(provisioning / "datasources" / "prometheus.yml")["datasources"]
    assert source["url"] == "http://127.0.0.1:9090"
    [provider] = read(provisioning / "dashboards" / "taskobs.yml")["providers"]
    assert [*inside[provider["options"]["path"]].glob("*.json")]


def read(path: Path) -> Any:
    """Read a file of YAML."""
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))
