"""What is left out of an import, and for whom."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest

from taskobs.internal.hidden_modules import hidden_modules


@pytest.fixture(autouse=True)
def rare(monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a module that is there and that nobody has imported."""
    monkeypatch.delitem(sys.modules, "this", raising=False)
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    monkeypatch.setattr("sys.stdout", sys.__stderr__)
    return "this"


def test_what_is_absent_cannot_be_imported(rare: str) -> None:
    """A library that looks for another does without it, as where it isn't installed."""
    before = list(sys.meta_path)
    with hidden_modules(rare), pytest.raises(ModuleNotFoundError) as caught:
        import_module(rare)
    assert caught.value.name == rare
    assert sys.meta_path == before
    assert import_module(rare)


def test_what_was_imported_before_stays(rare: str) -> None:
    """Nothing is taken from a process that uses it."""
    import_module(rare)
    with hidden_modules(rare):
        assert import_module(rare)


def test_other_threads_import_as_ever(rare: str) -> None:
    """My own thread imports the library at the same time, and gets it."""
    with hidden_modules(rare), ThreadPoolExecutor(1) as pool:
        assert pool.submit(import_module, rare).result()
