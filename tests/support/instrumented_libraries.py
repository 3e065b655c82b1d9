"""Libraries and their instrumentors, installed in a folder for one test.

Each library has a function ``call()``. Its instrumentor wraps it in a span that is named after the
library, as those of OpenTelemetry's contrib repository do, on their own base class.
"""

# The hooks of one test's modules have no public name.
# pyright: reportPrivateUsage=false
from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from taskobs.internal import import_hooks, instrumentors

GROUP = "opentelemetry_instrumentor"
INSTRUMENTOR = """
import {library}
from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.instrumentation.utils import unwrap
from wrapt import wrap_function_wrapper

class Instrumentor(BaseInstrumentor):
    def instrumentation_dependencies(self):
        return ()

    def _instrument(self, **options):
        {problem}
        name = options.get("span_name", "{library}")
        tracer = trace.get_tracer(__name__, None, options.get("tracer_provider"))

        def traced(call, instance, args, kwargs):
            with tracer.start_as_current_span(name):
                return call(*args, **kwargs)

        wrap_function_wrapper({library}, "call", traced)

    def _uninstrument(self, **options):
        unwrap({library}, "call")
"""


class Libraries:
    """Installs libraries and instrumentors; of all others, none is found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def library(self, name: str, source: str = "", version: str = "1.0") -> None:
        """Install a library, of which only ``call()`` matters."""
        self._write(f"{name}.py", f"{source}\ndef call():\n    return 3\n")
        self._distribution(name, version)

    def instrumentor(
        self,
        library: str,
        *,
        package: str = "",
        accepts: str = ">=1",
        source: str = INSTRUMENTOR,
        problem: str = "pass",
        entry: str = "",
        others: Sequence[str] = (),
    ) -> str:
        """Install an instrumentor of a library, which may not be installed; give its module.

        Its package declares ``others`` as well, of which it has an entry point that fails.
        """
        module = package or f"otel_{library}"
        self._write(f"{module}.py", source.format(library=library, problem=problem))
        extra = "instruments-any" if others else "instruments"
        needs, points = "", f"[{GROUP}]\n{entry or library} = {module}:Instrumentor\n"
        for one, release in ((library, accepts), *((other, "") for other in others)):
            needs += f'Requires-Dist: {one} {release} ; extra == "{extra}"\n'
        for other in others:
            points += f"{other} = {module}:Missing\n"
        self._distribution(module, "0.1", needs, points)
        return module

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def _distribution(self, name: str, version: str, needs: str = "", points: str = "") -> None:
        folder = self.folder / f"{name}-{version}.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        (folder / "METADATA").write_text(text, encoding="utf-8")
        (folder / "entry_points.txt").write_text(points, encoding="utf-8")

    def entry_points(self, group: str) -> list[metadata.EntryPoint]:
        """Give the entry points of what is installed here."""
        found = metadata.distributions(path=[str(self.folder)])
        installed = sorted(found, key=lambda one: one.metadata["Name"])
        return [point for one in installed for point in one.entry_points if point.group == group]


def install_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Libraries]:
    """Give the libraries of a test; none of their modules is left after it."""
    libraries = Libraries(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.setattr(instrumentors, "entry_points", libraries.entry_points)
    before = set(sys.modules)
    yield libraries
    for name in set(sys.modules) - before:
        origin: Any = getattr(sys.modules[name], "__file__", None)
        if origin and Path(origin).parent == folder:
            del sys.modules[name]
            # In a real process a module is imported once.
            import_hooks._wanted.pop(name, None)
            import_hooks._complete.discard(name)
            importer: Any = sys.modules["wrapt.importer"]
            importer._post_import_hooks.pop(name, None)  # kept by wrapt 1.14
