"""Hooks of imports, beside those that others have."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import wrapt
from packaging.version import Version

from taskobs.internal.import_hooks import when_imported


def test_a_module_that_was_imported_and_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tool's hook made an import fail: `init()` works, and sees the next import."""
    (tmp_path / "optional_library.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    calls: list[str] = []

    def fail(_: object) -> None:
        raise OSError("another tool's hook")

    wrapt.register_post_import_hook(fail, "optional_library")
    with pytest.raises(OSError, match="another tool"):
        importlib.import_module("optional_library")
    assert "optional_library" not in sys.modules
    forget = when_imported("optional_library", lambda: calls.append("imported"))
    importlib.import_module("optional_library")
    forget()
    del sys.modules["optional_library"]
    # wrapt 1.14 calls nobody for the second import.
    assert calls == ["imported"] * (Version(version("wrapt")) >= Version("1.15"))
