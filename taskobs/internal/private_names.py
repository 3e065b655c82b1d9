"""Private names of other libraries: each is declared once, looked up with care, and may be missing.

Only the ``_compat`` modules declare any. A library may rename what is private in any
release, so each name says what it is used for and what happens without it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

_log: Final = logging.getLogger("taskobs")
_MISSING: Final = object()
_warned: Final[set[str]] = set()


class PrivateName:
    """A private attribute of a module, or of a class in it.

    ``of_instances`` marks what only objects of the class have, made by its ``__init__``: it
    can't be looked up on the class, so whoever reads it does so through ``read``.
    """

    # No dataclass, which generates code: `init()` imports this in each process.
    def __init__(  # noqa: PLR0913  # one argument a fact, all keywords
        self,
        *,
        package: str,
        module: str,
        path: str,
        use: str,
        of_instances: bool = False,
        since: str = "",
    ) -> None:
        self.package: Final = package
        """The distribution that the name is from, such as ``opentelemetry-sdk``."""
        self.module: Final = module
        self.path: Final = path
        """The name in the module: ``_NAME``, ``Class._name``."""
        self.use: Final = use
        """What it is used for, and what is done without it: one clause for the log."""
        self.of_instances: Final = of_instances
        self.since: Final = since
        """The first release that has it, if it is no older than what is supported."""

    def find(self) -> Any:  # noqa: ANN401  # whatever the library has there
        """Return what the name stands for; None if its module isn't imported, or lacks it."""
        found = self._resolve()
        return None if found is _MISSING else found

    def _resolve(self) -> Any:  # noqa: ANN401  # as above
        found: Any = sys.modules.get(self.module)
        for part in self.path.split("."):
            found = getattr(found, part, _MISSING)
        return found

    def read(self, instance: object, default: Any = None) -> Any:  # noqa: ANN401  # as above
        """Return the attribute of an object, or the default."""
        return getattr(instance, self.path.rpartition(".")[2], default)

    @property
    def missing(self) -> bool:
        """Whether the module is imported and lacks the name; its value may be None."""
        if self.module not in sys.modules or self.of_instances:
            return False
        return self._resolve() is _MISSING and not self._is_later()

    def _is_later(self) -> bool:
        """Whether the installed release is older than the name."""
        if not self.since:
            return False
        installed = re.findall(r"\d+", _version(self.package))
        return [*map(int, installed)] < [*map(int, self.since.split("."))]


def warn_of_missing(names: Iterable[PrivateName]) -> list[PrivateName]:
    """Return the names that their libraries lack, after one warning for each, once a process."""
    missing = [name for name in names if name.missing]
    for name in missing:
        if name.path not in _warned:
            _warned.add(name.path)
            _log.warning(
                "taskobs: %s %s has no %s.%s (%s)",
                *(name.package, _version(name.package), name.module, name.path, name.use),
            )
    return missing


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of an unknown version"
