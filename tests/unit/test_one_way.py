"""What can be done in one way is done in one way: each of these stood in two to four positions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import taskobs
from taskobs.config.settings import Settings
from taskobs.relay.storage.spool.store import SpoolConfig

PACKAGE = Path(taskobs.__file__).parent


def positions(pattern: str, folder: Path = PACKAGE) -> set[str]:
    """Name the modules in which a pattern occurs."""
    found = (path for path in folder.rglob("*.py") if re.search(pattern, path.read_text("utf-8")))
    return {str(path.relative_to(PACKAGE)) for path in found}


@pytest.mark.parametrize(
    ("pattern", "home"),
    [
        (r"meta_path\.remove|sys\.modules\[\w+\] = ", "internal/hidden_modules.py"),
        (r"not in sys\.meta_path", "internal/import_hooks.py"),
        (r"register_at_fork", "internal/forksafe.py"),
        (r"ArithmeticError|OverflowError, ", "protocol/sanitize.py"),
        (r"256 \* 1024 \* 1024", "protocol/spool_defaults.py"),
    ],
    ids=[
        "hide a module",
        "hear of an import",
        "hear of a fork",
        "errors of packing",
        "defaults of the spool",
    ],
)
def test_there_is_one_place(pattern: str, home: str) -> None:
    assert positions(pattern) == {home}


def test_there_is_one_bounded_thread() -> None:
    """What blocks in Sentry's client or the SDK runs in a thread of ``internal/timeouts``."""
    assert positions(r"\bThread\(", PACKAGE / "sentry") == set()


def test_worker_and_relay_agree_on_the_spool(tmp_path: Path) -> None:
    settings, spool = Settings(), SpoolConfig(tmp_path, "celery@host")
    assert (settings.relay_spool_bytes, settings.relay_spool_age) == (spool.bytes, spool.age)
