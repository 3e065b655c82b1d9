"""What tests of the stores share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest


@pytest.fixture
def shared_path() -> Generator[Path]:
    """Give a directory that other users may pass through; pytest's own are for one user alone."""
    path = Path(tempfile.mkdtemp(prefix="shared-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)
