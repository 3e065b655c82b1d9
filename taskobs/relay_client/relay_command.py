"""The command line and the environment of a relay."""

from __future__ import annotations

import os
import re
import site
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from taskobs.protocol.startup import SEARCH_PATH

LISTEN_FD: Final = 3
MEMORY_FD: Final = 4
CONTROL_FD: Final = 5
_INTERPRETER: Final = re.compile("python|pypy|graal", re.IGNORECASE)
_STARTUP_MODULES: Final = frozenset({"sitecustomize", "usercustomize"})
_INSTRUMENTATION: Final = "OTEL_PYTHON_"
_EXPORTER: Final = "EXPORTER"


class NoInterpreterError(OSError):
    """This process can't start ``python -m``; the message says why."""


def command(worker: str) -> list[str]:
    """Return the command line. ``ps`` shows it: whose relay it is, and no secrets.

    Raises:
        NoInterpreterError: ``sys.executable`` is the app itself, which would start once more.
    """
    module = [_interpreter(), "-m", "taskobs.relay"]
    descriptors = ["--listen-fd", str(LISTEN_FD), "--control-fd", str(CONTROL_FD)]
    return [*module, *descriptors, "--worker", worker]


def _interpreter() -> str:
    executable = sys.executable
    if not executable:
        raise NoInterpreterError("the interpreter's own path is not known")
    if getattr(sys, "frozen", False) or hasattr(sys, "oxidized") or "__compiled__" in globals():
        raise NoInterpreterError(f"the app is frozen: {executable} is the app itself")
    if SEARCH_PATH in os.environ:
        raise NoInterpreterError(
            f"{executable} was started as a relay and is an app: it isn't a Python interpreter"
        )
    names = (Path(executable).name, Path(os.path.realpath(executable)).name)
    if not any(map(_INTERPRETER.search, names)):
        raise NoInterpreterError(f"{executable} isn't a Python interpreter")
    return executable


def environment() -> dict[str, str]:
    """Return the relay's environment: the worker's, without what would instrument the relay.

    ``opentelemetry-instrument``, ``ddtrace-run`` and ``newrelic-admin`` put a directory with a
    ``sitecustomize`` module into ``PYTHONPATH``. The relay would trace its own requests.
    """
    kept = {name: value for name, value in os.environ.items() if not _instruments(name)}
    path = [entry for entry in kept.pop("PYTHONPATH", "").split(os.pathsep) if _is_plain(entry)]
    root = str(Path(__file__).resolve().parents[2])
    if root not in path and root not in _site_directories():
        path.append(root)
    if path:
        kept["PYTHONPATH"] = os.pathsep.join(path)
    # Without it, a module in the current directory could replace one of the standard library.
    kept["PYTHONSAFEPATH"] = "1"
    kept[SEARCH_PATH] = os.pathsep.join(dict.fromkeys(_search_path()))
    return kept


def _instruments(name: str) -> bool:
    """Return whether a variable is for OpenTelemetry's automatic instrumentation."""
    return name.startswith(_INSTRUMENTATION) and _EXPORTER not in name


def _is_plain(entry: str) -> bool:
    """Return whether a directory has no module that Python runs by itself at its start."""
    if not entry:
        return False
    try:
        names = {path.name.partition(".")[0] for path in Path(entry).iterdir()}
    except OSError:  # a file, as a zip, or missing: left to the interpreter
        return True
    return _STARTUP_MODULES.isdisjoint(names)


def _site_directories() -> set[str]:
    """Return the directories where a new interpreter looks for packages by itself."""
    found: list[str] = []
    with suppress(AttributeError):  # the site module of an old virtualenv
        found = [*site.getsitepackages(), site.getusersitepackages()]
    return {os.path.realpath(entry) for entry in found}


def _search_path() -> Iterator[str]:
    for entry in sys.path:
        with suppress(OSError, TypeError):
            if entry and Path(entry).exists():
                yield str(Path(entry).absolute())
