"""The quickstart's servers and variables fit each other, and what taskobs and Celery read."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from taskobs.config.settings import declared, misspelt, resolve
from tests.support.paths import ROOT

FOLDER = ROOT / "examples/quickstart"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
READ_BY_CELERY = {"CELERY_BROKER_URL"}


def variables(broker: str) -> dict[str, str]:
    lines = (FOLDER / f"{broker}.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)


def ports(service: str) -> dict[int, int]:
    """Give the ports of a service: on this machine, and in the container."""
    published = [entry.rsplit(":", 2)[-2:] for entry in SERVICES[service]["ports"]]
    return {int(here): int(there) for here, there in published}


def test_services() -> None:
    """I start the quickstart with one profile, and get its broker, Jaeger and Bugsink."""
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert profiles == {
        "redis": ["redis"],
        "rabbitmq": ["rabbitmq"],
        "jaeger": None,
        "bugsink": None,
    }


@pytest.mark.parametrize("service", SERVICES)
def test_image_is_pinned(service: str) -> None:
    """I start it in a year, and get the same servers."""
    assert re.search(r":\d+\.\d+[\w.-]*$", SERVICES[service]["image"])


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_on_the_loopback(service: str) -> None:
    """I start it in a train, and nobody else can reach it."""
    assert all(entry.startswith("127.0.0.1:") for entry in SERVICES[service]["ports"])


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_variables(broker: str) -> None:
    """I load the env file, and each variable is read, and leads to a server that is there."""
    found = variables(broker)
    variables_read = {setting.variable for _, setting in declared()}
    assert set(found) <= variables_read | READ_BY_CELERY
    assert misspelt(found) == []
    settings = resolve({}, found)
    assert settings.traces
    assert settings.errors
    assert urlsplit(found["CELERY_BROKER_URL"]).port in ports(broker)
    assert urlsplit(found["OTEL_EXPORTER_OTLP_ENDPOINT"]).port in ports("jaeger")
    assert urlsplit(found["SENTRY_DSN"]).port in ports("bugsink")


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_the_project_of_bugsink_has_the_key_of_the_dsn(broker: str) -> None:
    """I make the project as the page says, and its DSN is the one that I have loaded."""
    source = (FOLDER / "bugsink_project.py").read_text(encoding="utf-8")
    key = urlsplit(variables(broker)["SENTRY_DSN"]).username
    assert f'UUID("{key}")' in source
    given: dict[str, str] = SERVICES["bugsink"]["environment"]
    assert urlsplit(given["BASE_URL"]).port == int(given["PORT"])


APPS = ("flask_app", "django_app", "fastapi_app")


@pytest.mark.parametrize("app", APPS)
def test_the_servers_of_the_apps(app: str) -> None:
    """I start an example's servers: they are the quickstart's, with Redis, in each of them."""
    folder = ROOT / "examples" / app
    services = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))["services"]
    theirs = {name: SERVICES[name] for name in ("redis", "jaeger", "bugsink")}
    assert services.keys() == theirs.keys()
    for name, service in services.items():
        assert (service["image"], service["ports"]) == (
            theirs[name]["image"],
            theirs[name]["ports"],
        )
    lines = (folder / "services.env").read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines)
    assert {**given, "SENTRY_ENVIRONMENT": "quickstart"} == variables("redis")


@pytest.mark.parametrize("app", APPS)
def test_what_vs_code_starts(app: str) -> None:
    """I start *shop* in VS Code: it starts the processes that the Procfile has."""
    folder = ROOT / "examples" / app
    launch = json.loads((folder / ".vscode/launch.json").read_text(encoding="utf-8"))
    [shop] = launch["compounds"]
    lines = (folder / "Procfile").read_text(encoding="utf-8").splitlines()
    started = {line.partition(":")[0] for line in lines} - {"release"}
    assert {*shop["configurations"]} == started == {one["name"] for one in launch["configurations"]}
    assert {one["envFile"] for one in launch["configurations"]} == {
        "${workspaceFolder}/services.env"
    }
