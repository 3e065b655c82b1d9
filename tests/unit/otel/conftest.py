"""What tests of spans in several threads share."""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest


@pytest.fixture
def eager_threads() -> Generator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
