"""What the doctor finds on the machine: releases, and whether a relay can start."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from taskobs.cli.doctor import loading
from taskobs.cli.doctor.checks.environment import TESTED
from taskobs.cli.doctor.finding import Status
from taskobs.config.settings import resolve
from taskobs.relay_client import socket_directory
from tests.docs.pages import pages
from tests.support.doctor import evidence, fine, found, probed


@pytest.mark.parametrize(
    ("name", "version", "fix"),
    [
        ("celery", "5.9.1", 'pip install "celery<5.8"'),
        ("celery", "5.2.7", 'pip install "celery>=5.3"'),
        ("sentry-sdk", "3.0.0", 'pip install "sentry-sdk<2.76"'),
        ("opentelemetry-sdk", "2.0.0", 'pip install "opentelemetry-sdk<1.46"'),
        ("Python", "3.15.0", "use Python <3.14"),
    ],
)
def test_a_release_that_is_not_tested_is_found(name: str, version: str, fix: str) -> None:
    """I have a newer release than the tests, or one that is too old."""
    made = evidence()
    made.versions = {name: version}
    finding = found("versions", made, Status.WARNING)
    assert f"{name} {version} is" in finding.what
    assert finding.fix.startswith(fix)


def test_releases_that_are_tested_are_fine() -> None:
    """What is installed here; and the beta of Sentry's next major release."""
    made = evidence()
    made.versions = dict(loading.versions())
    assert made.versions.keys() == TESTED.keys()
    fine("versions", made)
    made.versions = {"sentry-sdk": "3.0.0b2"}
    fine("versions", made)


def test_the_tested_releases_are_those_of_the_documentation() -> None:
    """I read which releases are tested, and the doctor has read the same."""
    row = re.compile(r"^\| (.+?) \| (\d+\.\d+)\S* \| (\d+\.\d+)", re.MULTILINE)
    texts = (page.read_text(encoding="utf-8") for page in pages())
    [table] = [part for text in texts for part in text.split("oldest tested | newest tested")[1:]]
    documented = {
        name.strip("` "): (_release(oldest), _release(newest))
        for names, oldest, newest in row.findall(table)
        for name in names.split(", ")
        if not name.startswith("the ")
    }
    assert documented == TESTED


def _release(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def test_an_interpreter_that_starts_no_relay_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """My app is frozen: it would start itself as its relay."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    made = evidence()
    made.relay_problem = loading.relay_problem(resolve({}, {}))
    finding = found("relay", made, Status.WARNING)
    assert "the app is frozen" in finding.what
    assert "TASKOBS_RELAY=0" in finding.fix


def test_a_directory_that_takes_no_socket_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The path of XDG_RUNTIME_DIR is too long, and the others can't be used."""
    long = tmp_path / ("x" * 100)

    def candidates(_: object) -> list[Path]:
        return [long]

    monkeypatch.setattr(socket_directory, "candidates", candidates)
    made = evidence()
    made.relay_problem = loading.relay_problem(resolve({}, {}))
    finding = found("relay", made, Status.WARNING)
    assert "too long" in finding.what
    assert finding.fix.startswith("export XDG_RUNTIME_DIR=")


def test_a_relay_that_the_worker_could_not_start_is_found() -> None:
    """It looks well from here, and the worker's limits are others."""
    line = (
        "WARNING taskobs: there is no relay, so each process sends its own telemetry: it can't be "
        "started: a limit on processes or threads is reached"
    )
    finding = found("relay", probed(log=[line]), Status.WARNING)
    assert finding.fix.startswith("raise the limit on processes")


def test_a_relay_that_can_start_is_fine() -> None:
    """Here; and where it is turned off, nobody asks."""
    made = evidence()
    made.relay_problem = loading.relay_problem(resolve({}, dict(os.environ)))
    fine("relay", made)
    assert loading.relay_problem(resolve({"relay": False}, {})) is None
    assert "turned off" in fine("relay", evidence(relay=False)).what
