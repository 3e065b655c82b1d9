"""The ``taskobs`` command, as far as it starts nothing."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import taskobs
from taskobs.cli.main import main
from taskobs.view.demo import run as demo_run
from tests.live.services import free_port


def test_the_version_is_the_packages() -> None:
    """``taskobs --version`` says which version I have."""
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"taskobs, version {taskobs.__version__}\n")


def test_python_m_is_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``python -m taskobs`` works where the script is not on the path."""
    monkeypatch.setattr(sys, "argv", ["__main__.py", "-h"])
    taskobs_main = str(Path(taskobs.__file__).with_name("__main__.py"))
    with pytest.raises(SystemExit) as ended:
        # Not `run_module()`: pytest loads packages that have plugins, and its loader, as of 9.2,
        # has no `get_code()`.
        runpy.run_path(taskobs_main, run_name="__main__")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Usage: taskobs ")
    assert " demo " in printed


def test_a_page_in_a_missing_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    """I don't wait for the demo to learn that its page has no place."""
    page = tmp_path / "missing" / "page.html"
    result = CliRunner().invoke(main, ["demo", "--page", str(page)])
    assert result.exit_code == 1
    assert f"there is no folder {page.parent}" in result.output


def test_a_backend_that_is_not_there_is_named_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """I learn at once which of my variables points nowhere; my key is not shown."""
    port = free_port()
    monkeypatch.setattr(demo_run, "_variables", _stop)
    monkeypatch.setenv("SENTRY_DSN", f"http://secret@127.0.0.1:{port}/1")
    result = CliRunner().invoke(main, ["demo", "--page", str(tmp_path / "page.html")])
    assert f"nothing answers at 127.0.0.1:{port} (SENTRY_DSN)" in result.output
    assert "secret" not in result.output


@pytest.mark.parametrize(
    "options",
    [
        ["doctor", "-A", "shop", "--timeout", "nan"],
        ["monitor", "-A", "shop", "--interval", "nan"],
        ["trace", "abc", "--days", "nan"],
        ["view", "--stay", "nan", "--", "true"],
    ],
)
def test_what_is_no_number_is_refused(options: list[str]) -> None:
    """A time that never comes is none that I can have meant."""
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 2
    assert "'nan' is not a number" in result.output


def _stop(*_: object) -> dict[str, str]:
    raise demo_run.DemoError("stopped by the test")
