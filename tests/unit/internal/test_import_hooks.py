"""Hooks of imports, beside those that others have."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
import wrapt

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
    assert calls == ["imported"]


def test_a_module_is_the_same_with_and_without_a_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody waits for my module: it has its own loader and spec, and can be imported anew."""
    (tmp_path / "awaited_library.py").write_text("loader = __loader__", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    calls: list[str] = []
    forget = when_imported("awaited_library", lambda: calls.append("imported"))
    found = importlib.util.find_spec("awaited_library")
    assert found is not None
    assert found.loader is not None
    assert found.loader.get_source("awaited_library") == "loader = __loader__"  # type: ignore[attr-defined]
    assert type(copy.deepcopy(found).loader) is type(found.loader)
    assert not calls
    module = importlib.import_module("awaited_library")
    assert type(module.loader) is type(module.__loader__) is SourceFileLoader
    assert module.__spec__ is not None
    assert type(module.__spec__.loader) is SourceFileLoader
    importlib.reload(module)
    assert calls == ["imported"]
    forget()
    del sys.modules["awaited_library"]


def test_another_finder_that_asks_all_finders_is_no_circle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tool hooks the same import, and both hear of it once."""
    (tmp_path / "shared_library.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    calls: list[str] = []
    wrapt.register_post_import_hook(lambda _: calls.append("theirs"), "shared_library")
    forget = when_imported("shared_library", lambda: calls.append("ours"))
    importlib.import_module("shared_library")
    forget()
    del sys.modules["shared_library"]
    assert sorted(calls) == ["ours", "theirs"]
