"""The pytest plugin in a test process of a user's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

SHOP: Final = """
from celery import Celery

app = Celery("shop", broker="memory://")

@app.task(name="shop.charge")
def charge(amount):
    if amount < 0:
        raise ValueError("declined")
"""
TESTS: Final = '''
import pytest
from shop import charge

def test_asked_for(taskobs_telemetry):
    charge.apply(args=[-1])
    assert taskobs_telemetry.run("shop.charge").outcome == "failed"

def test_not_asked_for(taskobs_telemetry):
    charge.apply(args=[-1])

@pytest.mark.taskobs(strict=False)
def test_lenient(taskobs_telemetry):
    charge.apply(args=[-1])

def test_missing(taskobs_telemetry):
    charge.apply(args=[1])
    taskobs_telemetry.run("shop.chrage")

@pytest.fixture
def telemetry(taskobs_telemetry):
    return taskobs_telemetry

def test_by_a_fixture_of_mine(telemetry):
    charge.apply(args=[-1])

@pytest.mark.taskobs(strict=True)
def test_without_the_fixture():
    """Checks nothing."""

def test_without_marker_or_fixture():
    charge.apply(args=[-1])

@pytest.mark.taskobs(timeout="soon")
def test_wrong_timeout(taskobs_telemetry):
    """Is not reached."""

@pytest.mark.taskobs(timeout=float("nan"))
def test_no_timeout(taskobs_telemetry):
    """Is not reached."""

@pytest.mark.taskobs(strcit=False)
def test_wrong_marker(taskobs_telemetry):
    """Is not reached."""

def test_by_its_name(request):
    request.getfixturevalue("taskobs_telemetry")
    charge.apply(args=[-1])

class TestThemAll:
    @pytest.mark.parametrize("amount", [-2, -1, 1, 2])
    def test_alone(self, taskobs_telemetry, amount):
        assert taskobs_telemetry.spans == ()
        charge.apply(args=[amount])
        assert len(taskobs_telemetry.runs()) == 1
'''
IDLE: Final = """
import sys
import pytest

def test_idle():
    heavy = ("celery", "opentelemetry", "sentry_sdk", "google.protobuf", "msgpack", "wrapt")
    assert [name for name in heavy if name in sys.modules] == []
    ours = {name for name in sys.modules if name.partition(".")[0] == "taskobs"}
    assert ours == {"taskobs", "taskobs.testing", "taskobs.testing.pytest_plugin"}

def test_no_warning_where_it_is_imported_before_pytest():
    pytest.register_assert_rewrite("taskobs")  # as pytest does for an installed plugin
"""


EARLY: Final = "import sys, taskobs, pytest; sys.exit(pytest.main(sys.argv[1:]))"
"""As `opentelemetry-instrument pytest`: it imports taskobs, and then runs pytest."""


def run_pytest(
    folder: Path, *arguments: str, program: tuple[str, str] = ("-m", "pytest")
) -> tuple[int, str]:
    """Run pytest in a folder; return its exit status and what it has printed."""
    (folder / "pytest.ini").touch()  # so that it looks for no other one above
    # Without those of the run of pytest that this test is in.
    theirs = ("COVERAGE_", "PYTEST_")
    variables = {name: text for name, text in os.environ.items() if not name.startswith(theirs)}
    command = [sys.executable, *program, "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_strict_suite(tmp_path: Path) -> None:
    """Tests fail for what they did not ask for, each by itself, spread over two processes."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "test_shop.py").write_text(TESTS)
    status, printed = run_pytest(tmp_path, "--taskobs-strict", "-rA", "--color=no", "-n2")
    assert status == 1, printed
    lines = re.findall(r"^(PASSED|FAILED|ERROR) test_shop\.py::(\S+)", printed, re.MULTILINE)
    outcomes = {name: outcome for outcome, name in lines}
    assert outcomes == {
        "test_asked_for": "PASSED",
        "test_not_asked_for": "FAILED",
        "test_lenient": "PASSED",
        "test_missing": "FAILED",
        "test_by_a_fixture_of_mine": "FAILED",
        "test_without_the_fixture": "FAILED",
        "test_without_marker_or_fixture": "PASSED",
        "test_wrong_timeout": "ERROR",
        "test_no_timeout": "ERROR",
        "test_wrong_marker": "ERROR",
        "test_by_its_name": "FAILED",
        **{f"TestThemAll::test_alone[{amount}]": "PASSED" for amount in (-2, -1, 1, 2)},
    }, printed
    assert "event ValueError: declined in shop.charge, id " in printed
    assert "there is no run shop.chrage. Did you mean 'shop.charge'?" in printed
    assert "marked taskobs(strict=True) must use taskobs_telemetry" in printed
    assert "taskobs_timeout is 'soon', which is no number of seconds" in printed
    assert "taskobs_timeout is nan, which is no number of seconds" in printed
    assert "the marker is taskobs(strcit=False). Write for example: taskobs(strict=" in printed
    # The line of the test is shown, and not how it is asked for.
    assert 'taskobs_telemetry.run("shop.chrage")' in printed
    assert "findings.py" not in printed


def test_tests_without_the_fixture_load_nothing(tmp_path: Path) -> None:
    """The plugin is there in each run of pytest, and costs those tests nothing."""
    (tmp_path / "test_idle.py").write_text(IDLE)
    options = ("-q", "-p", "no:xdist", "-W", "error")
    status, printed = run_pytest(tmp_path, *options, program=("-c", EARLY))
    assert status == 0, printed
