"""What contributors are told, what hooks run and what CI runs are one thing."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any, Final

import pytest
import yaml

from tests.docs.pages import section
from tests.support.paths import ROOT

MAKEFILE: Final = (ROOT / "Makefile").read_text(encoding="utf-8")
PAGE: Final = ROOT / "CONTRIBUTING.md"


def prerequisites(target: str) -> set[str]:
    """Give the targets that a target of the Makefile stands for."""
    [found] = re.findall(rf"^{target}:(.*?)(?:##.*)?$", MAKEFILE, re.MULTILINE)
    return set(found.split())


def loaded(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_each_commit_is_held_to_what_make_lint_runs() -> None:
    """I install the hooks, and `make lint` finds nothing in what I have committed."""
    [repository] = loaded(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"].split() for hook in repository["hooks"]]
    assert all(entry[:2] == ["make", "--silent"] for entry in entries)
    assert {target for entry in entries for target in entry[2:]} == prerequisites("lint")


def test_every_hook_looks_at_all_of_the_tree() -> None:
    """I change one line, and the hooks see what it breaks elsewhere."""
    for hook in loaded(".pre-commit-config.yaml")["repos"][0]["hooks"]:
        assert hook["always_run"], hook["id"]
        assert not hook["pass_filenames"], hook["id"]


def test_the_workflow_runs_what_the_page_says() -> None:
    """I run `.ci/run` on my machine, and know what CI will say."""
    [job] = loaded(".github/workflows/ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    steps = re.findall(r"^step (make \S+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    [told] = [line for line in section(PAGE, "A change").splitlines() if "`.ci/run`" in line]
    assert steps == re.findall(r"`(make \S+)`", told)


def test_each_ring_of_tests_is_on_the_page() -> None:
    """I look for the folder that my test belongs in, and how to run it."""
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")} - {"support"}
    assert (
        set(re.findall(r"^\| \w+ \| `tests/(\w+)` \|", PAGE.read_text(), re.MULTILINE)) == folders
    )


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z-]+)", PAGE.read_text()))))
def test_each_target_that_the_page_names_exists(target: str) -> None:
    """I type what the page says, and make knows it."""
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


def test_a_source_tree_does_not_pass_for_an_installed_wheel() -> None:
    """I see unit tests pass in `make build`, and it was the wheel that they ran on."""
    command = [sys.executable, "-m", "pytest", "--installed", "tests/unit/test_api.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 4  # pytest's own, for wrong usage
    assert f"taskobs would be imported from {ROOT / 'taskobs' / '__init__.py'}" in done.stderr
