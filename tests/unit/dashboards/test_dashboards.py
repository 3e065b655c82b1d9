"""The files that ``taskobs dashboards`` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from taskobs.celery.queues.readings import QueueReading, Reading
from taskobs.cli.main import main
from taskobs.dashboards.by_task import BY_TASK
from taskobs.dashboards.choices import SEARCHES
from taskobs.dashboards.grafana import as_grafana
from taskobs.dashboards.overview import OVERVIEW
from taskobs.dashboards.panels import Dashboard
from taskobs.dashboards.writing import COMPOSE, CONFIG, DASHBOARDS, RULE_TESTS, RULES, write
from taskobs.metrics.families import Family, plain_name
from taskobs.metrics.worker_families import Gauges, families_of, published
from taskobs.metrics.worker_table import Ended, WorkerTable
from taskobs.monitor import series
from tests.docs.pages import first_column, section
from tests.support.paths import ROOT

METRIC = re.compile(r"\b(?:celery|taskobs)_\w+")
SELECTOR = re.compile(r"(\w+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)(?:=~|!=|=)\"")
BY = re.compile(r"\bby \(([^)]*)\)")
OF_TARGETS = {"job", "instance"}
"""Labels that Prometheus adds."""
PAGE = ROOT / "docs/dashboards.md"
EVERY = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)


def exported() -> dict[str, set[str]]:
    """Give the labels of all series that a worker and a monitor export, by their names."""
    table = WorkerTable()
    task = table.of_task("tests.add").received("celery")
    task.began(1.0, 0.5)
    task.discard("revoked")
    task.ended(Ended("failed", 1.0, cpu=0.5, error="ValueError"))
    task.ended(Ended("retried", 1.0))
    table.process_exited("signal")
    now = Gauges({"active": 1}, 4, 16, {"tests.add": 2.0}, {"main": 1}, 1.0)
    queue = QueueReading(name="celery", ready=1, unacked=0, oldest_age=1.0, consumers=1)
    families = [
        *families_of(table, now),
        published({("tests.add", "celery", ""): 1}),
        *series.families_of(Reading(queues=(queue,)), connected=True),
    ]
    return dict(one for family in families for one in _series(family))


def _series(family: Family) -> Iterator[tuple[str, set[str]]]:
    given = [one.labels for one in family.samples]
    given += [one.labels for one in family.distributions]
    labels = {plain_name(label) for one in given for label in one} | OF_TARGETS
    assert given, family.name
    if family.kind == "histogram":
        yield f"{family.prometheus_name}_bucket", {*labels, "le"}
        yield f"{family.prometheus_name}_count", labels
    else:
        suffix = "_total" if family.kind == "counter" else ""
        yield f"{family.prometheus_name}{suffix}", labels


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
        y = position["y"]
        assert y == 0 or any(line == y - 1 for _, line in taken), f"a gap above {panel['title']}"
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


@EVERY
def test_variables_are_used_and_there(dashboard: Dashboard) -> None:
    """I choose a job or a queue, and every panel is of it."""
    made = as_grafana(dashboard)
    there = {variable["name"] for variable in made["templating"]["list"]}
    text = json.dumps([made["panels"], made["links"]])
    used = {name for name in re.findall(r"\$\{?(\w+)", text) if not name.startswith("__")}
    assert used == there
    for panel in panels(made):
        for target in panel["targets"]:
            assert "$job" in target["expr"], panel["title"]


@EVERY
def test_queries_use_names_that_exist(dashboard: Dashboard) -> None:
    """A metric or a label is renamed, and no panel is left without data."""
    there = exported()
    for panel in dashboard.panels:
        for query in panel.queries:
            selected = SELECTOR.findall(query.expression)
            assert selected
            labels = {label for metric, _ in selected for label in there[metric]}
            for metric, matchers in selected:
                assert set(LABEL.findall(matchers)) <= there[metric], panel.title
            for by in BY.findall(query.expression):
                assert set(by.split(", ")) <= labels, panel.title
            assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= labels, panel.title


def test_rules_use_names_that_exist(tmp_path: Path) -> None:
    """A metric is renamed, and no alert is silent for that."""
    pytest.importorskip("yaml")
    write(tmp_path)
    rules = [rule for group in read(tmp_path / RULES)["groups"] for rule in group["rules"]]
    there = exported()
    found = {*there, *(label for labels in there.values() for label in labels)}
    found |= {part for rule in rules for part in METRIC.findall(rule.get("record", ""))}
    for rule in rules:
        assert set(METRIC.findall(rule["expr"])) <= found, rule


def test_each_alert_has_a_test_and_a_line_in_the_docs(tmp_path: Path) -> None:
    """I am woken by an alert, and the page says what it means."""
    pytest.importorskip("yaml")
    write(tmp_path)
    rules = [rule for group in read(tmp_path / RULES)["groups"] for rule in group["rules"]]
    alerts = [rule["alert"] for rule in rules if "alert" in rule]
    tested = [
        case for one in read(tmp_path / RULE_TESTS)["tests"] for case in one["alert_rule_test"]
    ]
    fired = {case["alertname"] for case in tested if case["exp_alerts"]}
    silent = {case["alertname"] for case in tested if not case["exp_alerts"]}
    assert fired == silent == set(alerts)
    assert first_column(section(PAGE, "Alerts")) == alerts


@pytest.mark.parametrize("dashboard", [OVERVIEW, BY_TASK], ids=lambda one: one.uid)
def test_links_lead_to_traces_and_errors_of_the_task(dashboard: Dashboard) -> None:
    """I click on a task, and Jaeger and Sentry search for what its spans and events are called."""
    made = as_grafana(dashboard)
    of_columns = [
        link
        for panel in panels(made)
        for override in panel["fieldConfig"]["overrides"]
        for one in override["properties"]
        if one["id"] == "links"
        for link in one["value"]
    ]
    urls = {link["title"]: followed(link["url"]) for link in (*made["links"][1:], *of_columns)}
    jaeger = urlsplit(urls["Traces in Jaeger"])
    assert jaeger.netloc == "127.0.0.1:16686"
    assert parse_qs(jaeger.query) == {"service": ["celery"], "operation": ["run shop.add"]}
    sentry = urlsplit(urls["Errors in Sentry"])
    assert parse_qs(sentry.query) == {"query": ["celery.task_name:shop.add"]}
    if of_columns:
        here = urlsplit(urls["Dashboard of this task"])
        assert here.path == f"/d/{BY_TASK.uid}"
        assert parse_qs(here.query)["var-task"] == ["shop.add"]


def followed(url: str) -> str:
    """Put values in the place of Grafana's variables."""
    values = {one.name: one.value for one in SEARCHES}
    values |= {"task": "shop.add", "__value.raw": "shop.add"}
    return re.sub(r"\$\{([\w.]+)(?::\w+)?\}", lambda found: values.get(found[1], ""), url)


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
