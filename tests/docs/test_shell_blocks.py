"""Each command of a page is one that exists: a target, a subcommand, an extra, an app, a file."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import metadata
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
import yaml

from taskobs.cli.main import main
from taskobs.config.settings import declared
from taskobs.testing.receiver import Receiver
from tests.docs.pages import RUN_WHOLE, all_blocks, blocks, files, pages
from tests.docs.running import run, run_python
from tests.docs.test_configuration_blocks import READERS as CONFIGURATION
from tests.support.paths import ROOT

BLOCKS: Final = all_blocks("bash")
STANDARD: Final = {"OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_METRIC_EXPORT_INTERVAL"}
"""Variables that OpenTelemetry's exporters read themselves."""
SETTINGS: Final = {setting.variable for _, setting in declared()} | STANDARD
ELSEWHERE: Final = ("curl",)
"""Programs that are no part of this project, whose arguments are nothing of ours."""
NOT_RUN_THERE: Final = ("docker", "pip")
"""Commands that tests/live/test_how_to.py leaves out."""


@dataclass
class Shell:
    """Where a page's commands have led so far."""

    folder: Path
    receiver: Receiver
    files: Path
    """Where the files are that the page shows."""
    shown: Mapping[str, str]
    """What the page shows of files, by their names."""

    def check(self, line: str) -> None:
        """Fail for a command that would fail for a user."""
        words = shlex.split(line, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            assert words.pop(0).partition("=")[0] in SETTINGS, line
        if words:
            assert words[0] in CHECKS or words[0] in ELSEWHERE, f"nothing checks {words[0]!r}"
            CHECKS.get(words[0], _nothing)(self, words[1:])


def _nothing(_: Shell, __: list[str]) -> None:
    """Accept what is not ours."""


def _make(_: Shell, words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets)


def _taskobs(_: Shell, words: list[str]) -> None:
    command = main.commands[words[0]]
    command.make_context(words[0], words[1:])


def _pip(shell: Shell, words: list[str]) -> None:
    assert words.pop(0) == "install"
    for word in words:
        path, _, extra = word.rstrip("]").partition("[")
        if path.startswith("."):
            assert (shell.folder / path / "pyproject.toml").exists()
            assert not extra or extra in metadata("taskobs").get_all("Provides-Extra", [])


def _export(_: Shell, words: list[str]) -> None:
    assert {word.partition("=")[0] for word in words} <= SETTINGS


def _cd(shell: Shell, words: list[str]) -> None:
    shell.folder = ROOT / words[0]
    assert shell.folder.is_dir()


def _source(shell: Shell, words: list[str]) -> None:
    assert (shell.folder / words[0]).is_file()


IMAGES: Final = {
    service["image"]
    for service in yaml.safe_load(
        (ROOT / "examples/quickstart/compose.yaml").read_text(encoding="utf-8")
    )["services"].values()
}
WRITTEN: Final = {"observability/compose.yaml": "taskobs/dashboards/files/compose.yaml"}
"""Compose files that a command of ours writes, and where it has them from."""


def _docker(shell: Shell, words: list[str]) -> None:
    if words[0] == "run":
        assert words[-1] in IMAGES
        ports = [words[i + 1] for i, word in enumerate(words) if word == "-p"]
        assert ports
        assert all(port.startswith("127.0.0.1:") for port in ports)
        return
    assert words.pop(0) == "compose"
    path = "compose.yaml"
    if words[0] == "--file":
        path = WRITTEN.get(words[1], words[1])
        del words[:2]
    text = shell.shown.get(path) or (shell.folder / path).read_text()
    compose = yaml.safe_load(text)
    if words[0] == "--profile":
        services = compose["services"].values()
        assert [words[1]] in [service.get("profiles") for service in services]
    named = [word for word in words[1:] if not word.startswith("-")]
    if words[0] in ("exec", "stop"):
        assert named[0] in compose["services"]
    if words[-2] == "<":
        assert (shell.folder / words[-1]).is_file()
    elif words[0] == "exec":
        shell.check(shlex.join(named[1:]))
    if words[0] == "up":
        options = {"--build", "--detach", "--wait"}
        assert {*words[1:]} - options <= compose["services"].keys()


def _sudo(shell: Shell, words: list[str]) -> None:
    """Check the command after sudo, its user, and variables for it."""
    if words[0] == "-u":
        words = words[2:]
    while "=" in words[0]:
        assert words.pop(0).startswith("XDG_RUNTIME_DIR=/run/")
    shell.check(shlex.join([Path(words[0]).name, *words[1:]]))


def _service_manager(shell: Shell, words: list[str]) -> None:
    """Check that what is given to systemd or supervisord is a service of the page."""
    named = [Path(word).stem for word in words if "shop" in word]
    assert {*named} <= {Path(name).stem for name in shell.shown}


def _kubectl(shell: Shell, words: list[str]) -> None:
    """Check the files and the deployments that a command names, and what it runs in them."""
    manifests = [one for name in shell.shown for one in yaml.safe_load_all(shell.shown[name])]
    names = {f"deployment/{one['metadata']['name']}" for one in manifests}
    labels = {f"app={one['metadata']['name']}" for one in manifests}
    for option, word in pairwise(words):
        assert option != "-f" or word in shell.shown
        assert not word.startswith("deployment/") or word in names
        assert option != "--selector" or word in labels
    if "--" in words:
        shell.check(shlex.join(words[words.index("--") + 1 :]))


def _celery(shell: Shell, words: list[str]) -> None:
    assert words[0] == "-A"
    assert words[2] in ("worker", "beat")
    report = [sys.executable, "-m", "celery", "-A", words[1], "report"]
    shown = (shell.files / f"{words[1]}.py").exists()
    assert "memory" in run(report, shell.files if shown else shell.folder, shell.receiver)


def _flask(shell: Shell, words: list[str]) -> None:
    assert words[0] == "--app"
    assert words[2] == "run"
    run_python(f"from {words[1]} import app", shell.folder, shell.receiver)


def _uvicorn(shell: Shell, words: list[str]) -> None:
    module, app = words[0].split(":")
    run_python(f"from {module} import {app}", shell.folder, shell.receiver)


def _python(shell: Shell, words: list[str]) -> None:
    assert (shell.folder / words[0]).is_file()
    if words[0] == "manage.py":
        run([sys.executable, "manage.py", "check"], shell.folder, shell.receiver)


def _python3(_: Shell, words: list[str]) -> None:
    assert words == ["-m", "venv", ".venv"]


def _pytest(shell: Shell, words: list[str]) -> None:
    assert words == []  # tests/docs/test_testing.py runs it
    assert list((shell.folder / "tests").glob("test_*.py"))


def _pre_commit(_: Shell, words: list[str]) -> None:
    assert words == ["install"]
    assert (ROOT / ".pre-commit-config.yaml").is_file()


CHECKS: Final[dict[str, Callable[[Shell, list[str]], None]]] = {
    "make": _make,
    "taskobs": _taskobs,
    "pip": _pip,
    "export": _export,
    "cd": _cd,
    "set": _nothing,
    ".": _source,
    "docker": _docker,
    "sudo": _sudo,
    "systemctl": _service_manager,
    "systemd-analyze": _service_manager,
    "supervisorctl": _service_manager,
    "kubectl": _kubectl,
    "celery": _celery,
    "flask": _flask,
    "uvicorn": _uvicorn,
    "python": _python,
    "python3": _python3,
    "mkdir": _nothing,
    "pytest": _pytest,
    ".venv/bin/pre-commit": _pre_commit,
}


@pytest.mark.parametrize("name", sorted({str(block.page.relative_to(ROOT)) for block in BLOCKS}))
def test_commands_exist(name: str, receiver: Receiver, tmp_path: Path) -> None:
    """I type what a page says, line after line, and every line is one that works."""
    page = ROOT / name
    shell = Shell(ROOT, receiver, tmp_path, files(page))
    for block in blocks(page):
        if block.file is not None:
            (tmp_path / block.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        if block.language == "bash" and block.not_run is None:
            for line in block.text.splitlines():
                for command in line.split("; "):
                    if name not in RUN_WHOLE or command.split()[0] in NOT_RUN_THERE:
                        shell.check(command)


def test_blocks_that_are_not_run_say_why() -> None:
    """I trust a block unless its page says why nobody runs it, and there are none of these."""
    unchecked = [block for block in all_blocks("python", "bash") if block.not_run]
    assert [str(block) for block in unchecked] == []


OF_THE_SITE: Final = ("{toctree}", "{eval-rst}")
"""Directives that make a page of the site: tests/docs/test_site.py builds it."""


def test_every_block_is_of_a_known_language() -> None:
    """I find no block that is passed over because its language is misspelt or missing."""
    expected = ("python", "bash", "text", *CONFIGURATION, *OF_THE_SITE)
    unexpected = [
        block
        for page in pages()
        for block in blocks(page)
        if block.language not in expected and page.name != "architecture.md"
    ]
    assert [str(block) for block in unexpected] == []
