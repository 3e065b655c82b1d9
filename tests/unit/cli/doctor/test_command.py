"""``taskobs doctor`` as a command, as far as it starts no worker."""

from __future__ import annotations

import json
import os
import signal
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from taskobs.cli.doctor import loading
from taskobs.cli.doctor.checks import table
from taskobs.cli.doctor.checks.table import CHECKS
from taskobs.cli.doctor.finding import Finding
from taskobs.cli.main import main
from taskobs.testing.receiver import Receiver

SOURCE = """
from celery import Celery

import taskobs

app = Celery("shop", broker="memory://", set_as_current=False)
taskobs.init()
"""


@pytest.fixture(autouse=True)
def app_name(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Be in a folder with an app that nobody has imported."""
    name = f"{request.node.name.partition('[')[0]}_app"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return name


# Before 8.2, click's runner mixes standard error into the output, unless it is told not to.
MIXED = "mix_stderr" in signature(CliRunner).parameters
RUNNER: Any = CliRunner


def doctor(*args: str) -> Result:
    runner = RUNNER(mix_stderr=False) if MIXED else RUNNER()
    result: Result = runner.invoke(main, ["doctor", "--no-probe", *args])
    return result


def test_an_app_that_is_well_is_told_so(
    app_name: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I see each claim, what holds, and exit status 0; no secret, and no probe."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=t0k3n-of-mine")
    monkeypatch.setenv("SENTRY_DSN", receiver.dsn.replace("demo", "c0ffee"))
    result = doctor("-A", app_name)
    assert result.exit_code == 0, result.output
    assert f"✓ app             {app_name} is the app 'shop'" in result.stdout
    assert "errors to http://127.0.0.1" in result.stdout
    assert "0 broken" not in result.stdout
    for secret in ("c0ffee", "t0k3n"):
        assert secret not in result.output
    assert "asking the servers" in result.stderr
    assert "asking the servers" not in result.stdout


def test_what_is_broken_is_shown_with_its_fix(app_name: str) -> None:
    """Nothing is configured: exit status 1, and the line that mends it."""
    result = doctor("-A", app_name)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    [at] = [number for number, line in enumerate(lines) if line.startswith("✗ destination")]
    assert lines[at + 1].strip().startswith("→ export OTEL_EXPORTER_OTLP_ENDPOINT=")
    assert "1 broken" in lines[-1]


def test_json_has_every_finding(app_name: str) -> None:
    """My CI reads the findings by their names."""
    result = doctor("-A", app_name, "--json")
    assert result.exit_code == 1
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["app"] == app_name
    assert found["broken"] is True
    assert [one["name"] for one in found["findings"]] == [check.name for check in CHECKS]
    by_name = {one["name"]: one for one in found["findings"]}
    assert by_name["destination"]["status"] == "broken"
    assert by_name["broker"]["status"] == "ok"
    assert by_name["run"]["status"] == "unknown"
    needing = [one for one in found["findings"] if one["status"] in {"warning", "broken"}]
    assert all(one["fix"] for one in needing)


def test_an_app_that_cannot_be_imported_is_no_reason_to_stop(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the environment is examined all the same."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    result = doctor("-A", "no_such_app", "--json")
    assert result.exit_code == 1
    by_name = {one["name"]: one for one in json.loads(result.stdout)["findings"]}
    assert by_name["app"]["status"] == "broken"
    assert by_name["traces"]["status"] == "ok"
    assert by_name["broker"]["status"] == "unknown"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_doctor_has_a_status_of_its_own(
    number: signal.Signals, app_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is neither well nor broken."""

    def interrupted(_: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(loading, "configure", interrupted)
    result = doctor("-A", app_name)
    assert result.exit_code == 2
    assert "interrupted" in result.stderr


def test_a_fault_of_the_doctor_s_own_is_none_of_the_app_s(
    app_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CI does not take it for a broken app; and no secret is in what is said of it."""

    def fail(_: object) -> None:
        raise RuntimeError("no such thing at redis://:s3cr3t@localhost")

    monkeypatch.setattr(loading, "configure", fail)
    result = doctor("-A", app_name)
    assert result.exit_code == 2
    assert "the doctor itself has failed: RuntimeError: no such thing" in result.stderr
    assert "s3cr3t" not in result.stderr


def test_a_check_that_fails_says_nothing_of_the_others(
    app_name: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I still see all that the others have found; and no secret is in what is said of it."""

    def fail(_: object) -> Finding:
        raise RuntimeError("no such thing at http://c0ffee@localhost/1")

    failing = [one._replace(examine=fail) if one.name == "broker" else one for one in CHECKS]
    monkeypatch.setattr(table, "CHECKS", failing)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("SENTRY_DSN", receiver.dsn.replace("demo", "c0ffee"))
    result = doctor("-A", app_name, "--json")
    by_name = {one["name"]: one for one in json.loads(result.stdout)["findings"]}
    assert len(by_name) == len(CHECKS)
    assert by_name["broker"]["status"] == "unknown"
    assert "the check itself has failed: RuntimeError: no such" in by_name["broker"]["what"]
    assert by_name["app"]["status"] == "ok"
    assert "c0ffee" not in result.stdout + result.stderr


def test_what_the_app_prints_is_no_finding(app_name: str, tmp_path: Path) -> None:
    """My app says hello when it is imported, and the JSON is still JSON."""
    with (tmp_path / f"{app_name}.py").open("a") as source:
        source.write("print('hello')\n")
    result = doctor("-A", app_name, "--json")
    assert json.loads(result.stdout)["app"] == app_name
    assert "hello" in result.stderr


def test_modules_beside_the_app_are_found_later_too(
    app_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """My result backend is a class of mine, in a module that is first imported when it is used."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in {"", str(tmp_path)}])
    with (tmp_path / f"{app_name}.py").open("a") as source:
        source.write("app.conf.result_backend = 'backend_beside_the_app:Backend'\n")
    backend = "from celery.backends.base import DisabledBackend as Backend\n__all__ = ['Backend']\n"
    (tmp_path / "backend_beside_the_app.py").write_text(backend)
    found = {
        one["name"]: one for one in json.loads(doctor("-A", app_name, "--json").stdout)["findings"]
    }
    assert found["result_backend"]["status"] == "ok"


def test_an_app_may_change_where_modules_are_found(
    app_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """My app takes its own folder off the path, and its findings are shown all the same."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    with (tmp_path / f"{app_name}.py").open("a") as source:
        source.write("import sys\n")
        source.write(
            f"sys.path = [one for one in sys.path if one not in ('', {str(tmp_path)!r})]\n"
        )
    result = doctor("-A", app_name, "--json")
    assert json.loads(result.stdout)["app"] == app_name


def test_warnings_of_taskobs_are_evidence_and_no_output(
    app_name: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt variable is a finding; the line of the log that says it too is not printed."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("TASKOBS_CRON", "1")
    result = doctor("-A", app_name)
    assert result.exit_code == 0
    assert "! settings" in result.stdout
    assert "TASKOBS_CRON" not in result.stderr


def test_wrong_options_have_the_same_status() -> None:
    """I forget the app: CI must not take that for a broken one."""
    assert doctor().exit_code == 2
