"""Which instrumentors of OpenTelemetry are installed, and for which modules; none is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from importlib.util import find_spec
from typing import Final, NamedTuple

_GROUP: Final = "opentelemetry_instrumentor"
OF_TASKOBS: Final = frozenset({"celery", "taskobs"})
"""What taskobs instruments itself."""
DISABLED: Final = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
"""OpenTelemetry's variable: names, separated by commas, or ``*`` for all."""
_ALWAYS: Final = ("sys",)
"""For instrumentors that wait for no library: a module that is always there."""
_MODULES: Final = {
    "django": ("django.core.handlers.base",),
    "starlette": ("starlette.applications",),
    "urllib": ("urllib.request",),
}
"""Where a package has other modules that are imported for other reasons."""
_INSTRUMENTS: Final = re.compile(r"([\w.-]+).*\bextra\s*==\s*['\"]instruments(?:-any)?['\"]")


class Instrumentation(NamedTuple):
    """An instrumentor by its name; several packages may offer one under the same name."""

    name: str
    entry_points: tuple[EntryPoint, ...]

    def modules(self) -> tuple[str, ...]:
        """Return the modules of which one must be imported; none if no library is installed."""
        given = _MODULES.get(self.name)
        if given is not None:
            return given
        own = normalized(self.name)
        packages = [package for one in self.entry_points for package in _packages_of(one)]
        # A package may have an instrumentor for each of several libraries, and declares them all.
        packages = [one for one in packages if normalized(one) == own] or packages
        if packages:
            return tuple({module: None for package in packages for module in _modules_in(package)})
        return (own,) if _exists(own) else _ALWAYS


def normalized(name: str) -> str:
    """Return a name as modules are written."""
    return re.sub(r"[-.]", "_", name).lower()


def installed() -> dict[str, Instrumentation]:
    """Return the instrumentors that are installed, without those for Celery, by their names."""
    found: dict[str, list[EntryPoint]] = {}
    for one in entry_points(group=_GROUP):
        same = found.setdefault(one.name, [])
        if one.name not in OF_TASKOBS and one.value not in {other.value for other in same}:
            same.append(one)
    return {name: Instrumentation(name, tuple(same)) for name, same in found.items() if same}


def chosen(instrument: bool | Collection[str]) -> list[Instrumentation]:  # noqa: FBT001  # a setting
    """Return those that the setting asks for, and OpenTelemetry's variable does not disable."""
    if not instrument:
        return []
    wanted = None if isinstance(instrument, bool) else set(map(normalized, instrument))
    disabled = {name.strip() for name in os.environ.get(DISABLED, "").split(",")}
    return [
        one
        for name, one in installed().items()
        if (wanted is None or normalized(name) in wanted) and disabled.isdisjoint({name, "*"})
    ]


def _packages_of(entry_point: EntryPoint) -> Iterator[str]:
    """Give the packages of which it instruments one, as its own package declares them."""
    requires = entry_point.dist.requires if entry_point.dist is not None else None
    for requirement in requires or ():
        match = _INSTRUMENTS.match(requirement)
        if match is not None:
            yield match[1]


def _modules_in(package: str) -> list[str]:
    """Return the top-level modules of a package; none if it is not installed."""
    own = normalized(package)
    if _exists(own):
        return [own]
    try:
        names = distribution(package).read_text("top_level.txt") or ""
    except PackageNotFoundError:
        return []
    return [name for name in names.split() if _exists(name)]


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # what is in ``sys.modules`` may have no spec
        return False
