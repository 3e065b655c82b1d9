"""Run Celery's own unit tests without taskobs and with it, and print what differs.

The tests are those in the source distribution of the Celery that is installed here; it is
downloaded once, and runs in an environment of its own, both in the user's cache.

Exit status: 0 if each test that passes without taskobs passes with it; 1 if one does not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taskobs-celery-suite"
)
TESTERS: Final = (
    "boto3",
    "freezegun",
    "moto",
    "pytest-celery",
    "pytest-click",
    "pytest-order",
    "pytest-rerunfailures",
    "pytest-subtests",
    "pytest-timeout",
)
"""What Celery's tests import; tests of other optional packages are skipped on both sides."""
EXTRAS: Final = (
    "auth,azureblockblob,eventlet,gcs,gevent,mongodb,msgpack,pydantic,pymemcache,redis,"
    "sqlalchemy,yaml"
)

EXPLAINED: Final[dict[str, str]] = {}
"""Tests that fail with taskobs for a reason that is no fault of it: their ids, and the reasons."""


@dataclass(frozen=True)
class SuiteResult:
    """The results of one run of the suite."""

    outcomes: dict[str, str]
    spans: int
    events: int

    def __str__(self) -> str:
        """Say it in one line."""
        numbers = Counter(self.outcomes.values())
        tests = ", ".join(f"{numbers[name]} {name}" for name in sorted(numbers))
        return f"{tests}; {self.spans} spans and {self.events} events were made"


@dataclass(frozen=True)
class Suite:
    """Celery's source distribution, and an environment that can run its tests."""

    source: Path
    python: Path

    def run(self, tests: Sequence[str], *, taskobs: bool) -> SuiteResult:
        """Run tests, named as pytest does; their output goes to a file beside the outcomes."""
        name = "with" if taskobs else "without"
        outcomes, log = CACHE / f"{name}.json", CACHE / f"{name}.log"
        outcomes.unlink(missing_ok=True)
        clean = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OTEL_", "SENTRY_", "TASKOBS_", "PYTEST_"))
        }
        env = {
            **clean,
            "PYTHONPATH": str(ROOT / "tools"),
            "TASKOBS_SUITE_OUTCOMES": str(outcomes),
            "TASKOBS_SUITE_WITH": "1" if taskobs else "",
        }
        command = [str(self.python), "-m", "pytest", "-q", "-p", "celery_suite_plugin"]
        command += ["-p", "no:cacheprovider", "--continue-on-collection-errors", "--timeout=300"]
        with log.open("w", encoding="utf-8") as output:
            subprocess.run(
                [*command, *tests],
                cwd=self.source,
                env=env,
                stdout=output,
                stderr=output,
                check=False,
            )
        if not outcomes.exists():
            raise SystemExit(f"Celery's tests did not run {name} taskobs: see {log}")
        return SuiteResult(**json.loads(outcomes.read_text(encoding="utf-8")))


def prepare(celery: str) -> Suite:
    """Download Celery's source and make the environment, or take what the cache has."""
    CACHE.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    archive = CACHE / f"celery-{celery}.tar.gz"
    if not archive.exists():
        download = ["download", "-q", "--no-deps", "--no-binary", "celery", "-d", str(CACHE)]
        subprocess.run([*pip, *download, f"celery=={celery}"], check=True)
    source = CACHE / f"celery-{celery}"
    if not source.exists():
        with tarfile.open(archive) as packed:
            packed.extractall(CACHE, filter="data")
    if not (source / "t" / "unit").is_dir():
        raise SystemExit(f"the source distribution of Celery {celery} has no t/unit")
    folder = CACHE / f"python{sys.version_info.major}.{sys.version_info.minor}-{celery}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), *pip[1:], "install", "-q", "-e", str(ROOT)]
    subprocess.run(
        [*install, f"celery[{EXTRAS}]=={celery}", pytest_of(source), *TESTERS], check=True
    )
    return Suite(source, python)


def pytest_of(source: Path) -> str:
    """Return the pytest that Celery's tests are written for, as a requirement."""
    listed = (source / "requirements" / "test.txt").read_text(encoding="utf-8")
    found = re.search(r"^pytest[=<>~ ].*$", listed, re.MULTILINE)
    return found[0] if found else "pytest"


def broken(without: SuiteResult, with_taskobs: SuiteResult) -> list[str]:
    """Return the tests that pass without taskobs and not with it."""
    return [
        test
        for test, outcome in without.outcomes.items()
        if outcome == "passed" and with_taskobs.outcomes.get(test) != "passed"
    ]


def compare(suite: Suite, tests: Sequence[str]) -> list[str]:
    """Run both, print both, and return what taskobs breaks, twice in a row."""
    without = suite.run(tests, taskobs=False)
    print(f"without taskobs: {without}", flush=True)
    with_taskobs = suite.run(tests, taskobs=True)
    print(f"with taskobs:    {with_taskobs}", flush=True)
    found = broken(without, with_taskobs)
    for test, outcome in with_taskobs.outcomes.items():
        if outcome == "passed" and without.outcomes.get(test) == "failed":
            print(f"passes only with taskobs: {test}")
    return found


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tests", nargs="*", default=["t/unit"], help="t/unit, or a part of it")
    celery = version("celery")
    suite = prepare(celery)
    print(f"Celery {celery}, Python {sys.version.split()[0]}", flush=True)
    found = compare(suite, parser.parse_args().tests)
    if found:
        print(f"{len(found)} differ; once more, these alone", flush=True)
        found = compare(suite, found)
    for test in found:
        print(f"fails with taskobs: {test}: {EXPLAINED.get(test, 'not explained')}")
    left = [test for test in found if test not in EXPLAINED]
    print(f"the difference: {len(left)} tests" if left else "the difference: none")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
