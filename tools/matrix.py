"""Run the tests over the Pythons and the releases of Celery, OpenTelemetry and Sentry we support.

Each combination has a virtual environment of its own in the user's cache. The oldest releases are
the floors that ``pyproject.toml`` declares; the newest are those that pip finds today.

Exit status: 0 if all that ran passed; 1 if a test failed, or an environment could not be made;
2 if a Python is not on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import requires
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.version import Version

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taskobs-matrix"
PAGE: Final = ROOT / "docs" / "matrix.md"
BEGIN, END = "<!-- matrix -->", "<!-- /matrix -->"
PATIENCE: Final = 1200.0
"""Seconds after which the tests of one ring count as hanging."""

TESTERS: Final = f"{ROOT / 'pyproject.toml'}:test-core"
"""The dependency group of what the tests import, beside taskobs and what it requires."""
REDIS: Final = ("celery[redis]",)
WITH_SCHEDULERS: Final = (*REDIS, "celery-redbeat", "django-celery-beat")
"""What some tests need, and skip without."""
OF_THEIR_TIME: Final = {
    "kombu": "<5.4",
    "billiard": "<4.3",  # with 4.3 a sys.exit() in a task breaks Celery before 5.7 itself
}
"""Packages that Celery requires and releases in step: what the oldest Celery was made for."""


def series(number: str) -> dict[str, str]:
    """Pin Celery to a series of releases, and kombu to the release that came with it.

    A later kombu wants a later Redis client than this Celery allows.
    """
    return {"celery": f"~={number}.0", "kombu": f"~={number}.0", "billiard": "<4.3"}


PLAIN: Final = "unit, process, worker"
"""The rings that need no server."""
RINGS: Final = {
    PLAIN: ("tests/unit", "tests/process", "tests/worker"),
    "live": ("tests/live/test_smoke.py", "-k", "any_machine or (one_trace and redis)"),
    "parent": ("tests/live/test_parent.py", "-k", "redis"),
}
PLAIN_RINGS: Final = (PLAIN, "live")


@dataclass(frozen=True)
class Combination:
    """One Python with one choice of releases."""

    name: str
    python: str
    oldest: bool = False
    extras: str = "[grpc]"
    more: tuple[str, ...] = WITH_SCHEDULERS
    """Requirements beside taskobs and the testers."""
    except_for: Mapping[str, str] = field(default_factory=dict[str, str])
    """Floors of this combination that are higher than the declared ones."""
    held: Mapping[str, str] = field(default_factory=dict[str, str])
    """Packages of which it has not the newest release, and which it may have."""
    rings: tuple[str, ...] = PLAIN_RINGS

    @property
    def label(self) -> str:
        """Its name in the table."""
        return f"{self.python} {self.name}"

    @property
    def folder(self) -> Path:
        """Where its environment is."""
        return CACHE / re.sub(r"[^a-z0-9.]+", "-", self.label.lower())

    def requirements(self) -> list[str]:
        """Return what pip is asked to install."""
        return ["-e", f"{ROOT}{self.extras}", "--group", TESTERS, *self.more]

    def constraints(self) -> list[str]:
        """Return pip's constraints."""
        pinned = dict(self.held)
        if self.oldest:
            lowest = {**floors(), **self.except_for}
            pinned |= OF_THEIR_TIME | {name: f"=={version}" for name, version in lowest.items()}
        return [f"{name}{specifier}" for name, specifier in pinned.items()]


@dataclass(frozen=True)
class Result:
    """The result of one combination."""

    combination: str
    """As ``Combination.label``."""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    told: Mapping[str, str] = field(default_factory=dict[str, str])
    """By the name of a ring: pytest's last line."""
    succeeded: bool = False
    missing: bool = False


COMBINATIONS: Final = (
    Combination("oldest", "3.10", oldest=True, more=REDIS, rings=tuple(RINGS)),
    Combination("newest", "3.10"),
    Combination("newest", "3.11"),
    Combination("newest", "3.12"),
    Combination("newest", "3.13"),
    Combination("oldest", "3.13", oldest=True, more=REDIS),
    Combination("Celery 5.4", "3.11", held=series("5.4")),
    Combination("Celery 5.5", "3.12", held=series("5.5")),
    Combination("Celery 5.6", "3.13", held=series("5.6")),
    Combination("Sentry 3 beta", "3.13", more=(*WITH_SCHEDULERS, "sentry-sdk>=3.0.0b1")),
    Combination("no extras", "3.13", extras="", more=REDIS),
)
QUICK: Final = tuple(
    one for one in COMBINATIONS if one.label in {"3.10 oldest", "3.13 newest", "3.13 no extras"}
)


def floors() -> dict[str, str]:
    """Return the lowest release of each package that taskobs declares to work with."""
    found: dict[str, str] = {}
    for text in requires("taskobs") or ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": "grpc"}):
            continue
        lowest = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        if lowest:
            found[requirement.name] = max(lowest, key=Version)
    return found


def interpreter(version: str) -> str | None:
    """Find a Python: on the PATH, or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = [str(path) for path in sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]
    for path in (shutil.which(f"python{version}"), *installed):
        # pyenv puts programs on the PATH that refuse to run.
        if path and _works(path):
            return path
    return None


def _works(python: str) -> bool:
    return not subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode


def make(combination: Combination, python: str) -> Path:
    """Make or refresh an environment and give its Python; raises `CalledProcessError`."""
    folder, binary = combination.folder, combination.folder / "bin" / "python"
    if not binary.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(combination.constraints()) + "\n", encoding="utf-8")
    # The pip that runs this file: the one that comes with an old Python knows no --group.
    install = [sys.executable, "-m", "pip", "--python", str(binary), "install", "-q"]
    install += ["--disable-pip-version-check"]
    install += ["--upgrade", "--upgrade-strategy", "eager", "-c", str(constraints)]
    subprocess.run([*install, *combination.requirements()], check=True)
    return binary


def versions_in(binary: Path) -> dict[str, str]:
    """Return the releases that an environment has, by name."""
    listing = subprocess.run(
        [str(binary), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    found: list[dict[str, str]] = json.loads(listing.stdout)
    return {package["name"].lower(): package["version"] for package in found}


def run_ring(binary: Path, ring: str, *, oldest: bool) -> tuple[bool, str]:
    """Run the tests of one ring; gives whether they passed, and pytest's last line."""
    command = [str(binary), "-m", "pytest", "-q", "-p", "no:cacheprovider", *RINGS[ring]]
    if oldest:  # old releases use what later Pythons warn of
        command += ["-W", "ignore::DeprecationWarning"]
    log = binary.parents[1] / f"{ring.replace(', ', '-')}.log"
    with log.open("w", encoding="utf-8") as output:
        try:
            done = subprocess.run(
                command, cwd=ROOT, stdout=output, stderr=output, check=False, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            return False, f"hangs: more than {PATIENCE:.0f} s"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() or ["no output"]
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            print(f"      {line}")
    beside = r" in [\d.]+s.*|, \d+ (deselected|warnings?)"
    return not done.returncode, re.sub(beside, "", lines[-1])


def run(combination: Combination) -> Result:
    """Make an environment, and run the rings of tests in it."""
    python = interpreter(combination.python)
    if python is None:
        say(f"no python{combination.python} on this machine", ok=False)
        return Result(combination.label, missing=True)
    try:
        binary = make(combination, python)
    except subprocess.CalledProcessError:
        say("pip could not make the environment", ok=False)
        return Result(combination.label)
    versions, told, succeeded = versions_in(binary), dict[str, str](), True
    for ring in combination.rings:
        started = time.monotonic()
        ok, told[ring] = run_ring(binary, ring, oldest=combination.oldest)
        succeeded = succeeded and ok
        say(f"{ring}: {told[ring]} ({time.monotonic() - started:.0f} s)", ok=ok)
    return Result(combination.label, versions, told, succeeded)


def say(text: str, *, ok: bool) -> None:
    """Print a line of progress."""
    print(f"   {'ok  ' if ok else 'FAIL'} {text}", flush=True)


COLUMNS: Final = {
    "Celery": ("celery",),
    "kombu, billiard": ("kombu", "billiard"),
    "OpenTelemetry": ("opentelemetry-sdk", "opentelemetry-instrumentation-celery"),
    "Sentry SDK": ("sentry-sdk",),
    "wrapt, click, msgpack": ("wrapt", "click", "msgpack"),
    "gRPC": ("grpcio",),
}


def table(results: Sequence[Result]) -> str:
    """Return the results as a table in Markdown."""
    return "\n".join(rows(results))


def rows(results: Sequence[Result]) -> Iterator[str]:
    """Give the lines of the table."""
    heads = ["Python", "releases", *COLUMNS, PLAIN, "live"]
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for result in results:
        cells = result.combination.split(maxsplit=1)
        cells += [
            ", ".join(result.versions.get(name, "none") for name in packages)
            for packages in COLUMNS.values()
        ]
        live = [told for ring, told in result.told.items() if ring != PLAIN]
        cells += [result.told.get(PLAIN, "not run"), "; ".join(live) or "not run"]
        yield f"| {' | '.join(cells)} |"


def write(text: str) -> None:
    """Put the table between the markers of its page."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: wrote the table")


def remember(result: Result) -> dict[str, Result]:
    """Keep a result in the cache, and return the last one of each combination there is."""
    file = CACHE / "results.json"
    text = file.read_text(encoding="utf-8") if file.exists() else "{}"
    by_label: dict[str, dict[str, Any]] = json.loads(text)
    by_label[result.combination] = asdict(result)
    CACHE.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(by_label, indent=1), encoding="utf-8")
    labels = [one.label for one in COMBINATIONS]
    return {label: Result(**by_label[label]) for label in labels if label in by_label}


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three combinations instead of all")
    parser.add_argument("--only", metavar="WORDS", help="those whose 'PYTHON NAME' has these words")
    chosen = parser.parse_args()
    every = QUICK if chosen.quick else COMBINATIONS
    combinations = [one for one in every if not chosen.only or chosen.only in one.label]
    results: list[Result] = []
    last: dict[str, Result] = {}
    for number, one in enumerate(combinations, 1):
        print(f"[{number}/{len(combinations)}] Python {one.label}", flush=True)
        results.append(run(one))
        last = remember(results[-1])
    print(table(results))
    if len(last) == len(COMBINATIONS) and all(result.succeeded for result in last.values()):
        write(table(list(last.values())))
    if any(not result.succeeded and not result.missing for result in results):
        return 1
    return 2 if any(result.missing for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
