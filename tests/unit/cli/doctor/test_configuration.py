"""What the doctor finds in settings, without asking anybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskobs.cli.doctor import loading
from taskobs.cli.doctor.checks import configuration
from taskobs.cli.doctor.evidence import Evidence, Probe
from taskobs.cli.doctor.finding import Status
from tests.support.doctor import evidence, examine, fine, found, nothing

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
HERE = {ENDPOINT: "http://localhost:4318"}


def test_an_environment_without_endpoint_and_dsn_is_found() -> None:
    """I set the variables for my web process and forgot this one: nothing is recorded."""
    finding = found("destination", evidence())
    assert "neither an endpoint nor a DSN" in finding.what
    assert finding.fix.startswith(f"export {ENDPOINT}=http://localhost:4318")


@pytest.mark.parametrize(
    ("environ", "fix"),
    [
        (HERE | {"TASKOBS_ENABLED": "0"}, "unset TASKOBS_ENABLED"),
        (HERE | {"OTEL_SDK_DISABLED": "true"}, "unset OTEL_SDK_DISABLED"),
    ],
)
def test_what_is_switched_off_is_found(environ: dict[str, str], fix: str) -> None:
    """Somebody has switched it off, in a file that I don't know."""
    assert found("switched_on", evidence(environ)).fix == fix
    fine("switched_on", evidence(HERE))


def test_init_that_is_switched_off_by_its_argument_is_found() -> None:
    """The code says ``enabled=False``: no variable helps."""
    finding = found("switched_on", evidence(HERE, enabled=False))
    assert finding.fix == "taskobs.init(enabled=True)"


def test_a_refused_setting_is_found_with_a_line_that_works() -> None:
    """A value that can't work is shown, with one that can."""
    finding = found("settings", evidence({"TASKOBS_SHUTDOWN_TIMEOUT": "soon"}))
    assert "TASKOBS_SHUTDOWN_TIMEOUT" in finding.what
    assert finding.fix == "TASKOBS_SHUTDOWN_TIMEOUT=3.0"


def test_a_misspelt_variable_is_found() -> None:
    """I have written TASKOBS_CRON, and it has no effect."""
    finding = found("settings", evidence({"TASKOBS_CRON": "1"}), Status.WARNING)
    assert "TASKOBS_CRON has no effect" in finding.what
    assert finding.fix == "export TASKOBS_CRONS=..."
    fine("settings", evidence(HERE | {"TASKOBS_DOCTOR": "{}"}))


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_an_endpoint_that_ends_in_a_signals_path_is_found(signal: str) -> None:
    """I have copied the whole address, and the path is added to it once more."""
    made = evidence({ENDPOINT: f"http://user:pw@collector:4318/otlp/v1/{signal}"})
    finding = found("endpoint_path", made)
    assert f"ends in /v1/{signal}" in finding.what
    assert finding.fix == f"export {ENDPOINT}=http://***@collector:4318/otlp"


def test_an_endpoint_of_traces_without_its_path_is_found() -> None:
    """The endpoint of one signal is used as it is, and I have written the base of all."""
    made = evidence({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318"})
    finding = found("endpoint_path", made, Status.WARNING)
    fix = "export OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://localhost:4318/v1/traces"
    assert finding.fix == fix


def test_right_paths_are_fine() -> None:
    """An endpoint as documented, a path in front of it, an argument with the whole path."""
    fine("endpoint_path", evidence(HERE))
    fine("endpoint_path", evidence({ENDPOINT: "http://collector/otlp"}))
    fine("endpoint_path", evidence(otlp_endpoint="http://localhost:4318/v1/traces"))


@pytest.mark.parametrize(
    ("environ", "fix"),
    [
        ({ENDPOINT: "http://localhost:4317"}, f"export {PROTOCOL}=grpc"),
        (HERE | {PROTOCOL: "grpc"}, f"export {PROTOCOL}=http/protobuf"),
        ({ENDPOINT: "localhost:4318", PROTOCOL: "grpc"}, f"export {PROTOCOL}=http/protobuf"),
    ],
)
def test_the_port_of_the_other_protocol_is_found(environ: dict[str, str], fix: str) -> None:
    """4317 is for gRPC and 4318 for HTTP, and I have confused them."""
    assert found("endpoint_port", evidence(environ)).fix == fix


def test_the_protocol_that_fits_the_port_is_fine() -> None:
    """Neither the usual ports nor any other is complained of."""
    for environ in (HERE, {ENDPOINT: "http://localhost:4317", PROTOCOL: "grpc"}):
        fine("endpoint_port", evidence(environ))
    fine("endpoint_port", evidence({ENDPOINT: "https://otlp.example"}))


def test_a_missing_exporter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """I have chosen gRPC, and its exporter is not installed here."""
    monkeypatch.setattr(configuration, "find_spec", nothing)
    finding = found("protocol", evidence(HERE | {PROTOCOL: "grpc"}))
    assert finding.fix.startswith('pip install "taskobs[grpc]"')
    fine("protocol", evidence(HERE))


@pytest.mark.parametrize(
    ("environ", "arguments"),
    [
        ({"OTEL_TRACES_SAMPLER": "always_off"}, {}),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, {}),
        ({}, {"sample_rate": 0}),
    ],
)
def test_a_sampler_that_records_nothing_is_found(
    environ: dict[str, str], arguments: dict[str, float]
) -> None:
    """Everything works, and no trace is recorded: the sampler leaves all out."""
    found("sampling", evidence(HERE | environ, **arguments))
    fine("sampling", evidence(HERE | environ, keep=["failed"], **arguments))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a folder of apps."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(name: str) -> Evidence:
    made = Evidence(name=name, environ={})
    loading.load(made)
    loading.configure(made)
    return made


@pytest.mark.parametrize(
    ("name", "source", "problem", "fix"),
    [
        ("away_shop:app", None, "No module named 'away_shop'", "cd <the folder"),
        ("needs_more", "import no_such_library", "no_such_library", "install what provides"),
        ("raises_shop", "raise ValueError('not today')", "not today", "python -c 'import raises"),
        ("exits_shop", "raise SystemExit('bye')", "ends the process", "python -c 'import exits"),
        ("no_app:none", "x = 1", "none", "taskobs doctor -A no_app:<name of the app>"),
    ],
)
def test_an_app_that_cannot_be_imported_is_found(
    name: str, source: str | None, problem: str, fix: str, folder: Path
) -> None:
    """I give a wrong name, or my app needs something: the doctor says which, and goes on."""
    if source is not None:
        (folder / f"{name.partition(':')[0]}.py").write_text(source)
    finding = found("app", load(name))
    assert problem in finding.what
    assert finding.fix.startswith(fix)


def test_a_setting_that_init_refuses_is_found(folder: Path) -> None:
    """The import fails by a setting: the setting is named, not the import."""
    source = "import taskobs\nfrom celery import Celery\ntaskobs.init(sample_rate=7)\n"
    (folder / "refused_shop.py").write_text(source)
    made = load("refused_shop")
    assert found("settings", made).fix == "taskobs.init(sample_rate=0.1)"
    assert examine("app", made).status is Status.UNKNOWN


def test_a_missing_init_is_found(folder: Path) -> None:
    """I have installed taskobs, and call it nowhere."""
    source = "from celery import Celery\napp = Celery('shop', set_as_current=False)\n"
    (folder / "no_init_shop.py").write_text(source)
    made = load("no_init_shop")
    fine("app", made)
    assert "taskobs.init()" in found("init", made).fix
    made.probe = Probe(initialised=True)
    assert "its worker does" in found("init", made, Status.WARNING).what


def test_eager_tasks_are_found(folder: Path) -> None:
    """Tests have left task_always_eager on: nothing is ever published."""
    source = "from celery import Celery\napp = Celery('shop', set_as_current=False)\n"
    (folder / "eager_shop.py").write_text(f"{source}app.conf.task_always_eager = True\n")
    finding = found("eager", load("eager_shop"), Status.WARNING)
    assert finding.fix == "app.conf.task_always_eager = False"
