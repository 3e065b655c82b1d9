"""Build wheel and sdist into ``dist/``, check them, and run the unit tests against the wheel.

The tests come from the sdist, unpacked without its ``taskobs`` package: whatever process imports
taskobs, a test's child too, can only find the installed wheel.

Exit status: 0 if the distributions are fit to be uploaded; 1 if not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
DIST: Final = ROOT / "dist"
SCRIPTS: Final = Path(sys.executable).parent
PACKAGE: Final = "taskobs"


class UnfitError(Exception):
    """A distribution differs from the source tree."""


def build() -> tuple[Path, Path]:
    """Build afresh; return the wheel and the sdist that it was made from."""
    shutil.rmtree(DIST, ignore_errors=True)
    run([SCRIPTS / "pyproject-build", "--outdir", DIST, ROOT], quiet=True)
    [wheel], [sdist] = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    run([SCRIPTS / "twine", "check", "--strict", wheel, sdist])
    return wheel, sdist


def run(command: Sequence[str | Path], *, folder: Path = ROOT, quiet: bool = False) -> None:
    """Run a program to its end, without the caller's PYTHONPATH; print what it prints if it fails.

    Raises:
        subprocess.CalledProcessError: its exit status is not 0.
    """
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    output = subprocess.PIPE if quiet else None
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=folder, env=variables, stdout=output, stderr=output, text=True, check=False
    )
    if done.returncode:
        print(done.stdout or "", done.stderr or "", sep="", file=sys.stderr)
    done.check_returncode()


def in_source() -> set[str]:
    """Name the files of the package in the source tree."""
    files = (path for path in (ROOT / PACKAGE).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def compare(files: Iterable[str]) -> None:
    """Compare the files of a distribution with the source tree.

    Raises:
        UnfitError: the package has a file too many, or one is missing.
    """
    packed = {name for name in files if name.startswith(f"{PACKAGE}/") and name[-1] != "/"}
    if packed != in_source():
        raise UnfitError(f"differs from the source tree in {sorted(packed ^ in_source())}")


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack an sdist and return its folder, from which the package has been taken away."""
    shutil.unpack_archive(sdist, folder)
    tree = folder / sdist.name.removesuffix(".tar.gz")
    compare(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
    shutil.rmtree(tree / PACKAGE)
    return tree


def install(wheel: Path, environment: Path) -> Path:
    """Install the wheel, and what its unit tests import, apart from all else; return the Python."""
    run([sys.executable, "-m", "venv", "--without-pip", environment])
    python = environment / "bin" / "python"
    group = f"{ROOT / 'pyproject.toml'}:test-unit"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install", "-q"]
    run([*pip, "--disable-pip-version-check", f"{wheel}[grpc]", "--group", group])
    return python


def test(wheel: Path, sdist: Path, *, jobs: str) -> None:
    """Run the sdist's unit tests on the wheel."""
    with tempfile.TemporaryDirectory(prefix="taskobs-") as folder:
        tree = unpack(sdist, Path(folder))
        say("installing the wheel")
        python = install(wheel, Path(folder) / "venv")
        run([python.with_name("taskobs"), "--help"], folder=tree, quiet=True)
        say("running its unit tests")
        run([python, "-m", "pytest", "--installed", "-q", "-n", jobs, "tests/unit"], folder=tree)


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[{time.monotonic() - STARTED:4.0f}s] {text}", flush=True)


STARTED: Final = time.monotonic()


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", default="auto", help="test processes, as pytest-xdist's -n")
    jobs: str = parser.parse_args().jobs
    try:
        say("building wheel and sdist")
        wheel, sdist = build()
        compare(zipfile.ZipFile(wheel).namelist())
        test(wheel, sdist, jobs=jobs)
    except (subprocess.CalledProcessError, UnfitError) as error:
        print(f"make build: {error}", file=sys.stderr)
        return 1
    say(f"fit to be uploaded: {wheel.relative_to(ROOT)}, {sdist.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
