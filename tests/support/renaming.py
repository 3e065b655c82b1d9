"""Another release of a library: names of it have other names in all of its modules.

Renaming takes a name away from everybody but the library itself, which goes on working: deleting
it would break the library, and attributes of objects can't be deleted before there are any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

_IMPORTED: Final = re.compile(r"\s*(from\s+\S+\s+import|import\s.*)\b")
"""The paths of modules in a line."""


class Renaming(MetaPathFinder):
    """Renames names in the modules of one package that are imported from now on."""

    def __init__(self, package: str, *names: str) -> None:
        self._package = package
        self._names = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
        self.times = 0

    def install(self) -> None:
        """Begin; none of the package's modules may be imported yet."""
        loaded = [name for name in sys.modules if name.split(".")[0] == self._package]
        assert not loaded, loaded
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Have modules of the package loaded by us."""
        if fullname.split(".", maxsplit=1)[0] != self._package:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, str(spec.loader.path), self)
        return spec

    def rename(self, source: str) -> str:
        """Rename in a module's source, but for the paths of modules in import statements."""
        return "\n".join(map(self._rename_line, source.split("\n")))

    def _rename_line(self, line: str) -> str:
        path = _IMPORTED.match(line)
        start = path.end() if path else 0
        renamed, times = self._names.subn(r"_renamed\1", line[start:])
        self.times += times
        return line[:start] + renamed


class _Loader(SourceFileLoader):
    """Loads a module, from its source if that has the name."""

    def __init__(self, fullname: str, path: str, renaming: Renaming) -> None:
        super().__init__(fullname, path)
        self._renaming = renaming

    def get_code(self, fullname: str) -> CodeType | None:
        """Compile the module's source, with the new name; as ever if it has nothing to rename."""
        source = Path(self.path).read_text(encoding="utf-8")
        renamed = self._renaming.rename(source)
        if renamed == source:
            return super().get_code(fullname)
        compiled: CodeType = compile(renamed, self.path, "exec", dont_inherit=True)
        return compiled
