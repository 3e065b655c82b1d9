"""What the tests of pages and examples share."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from taskobs.testing.receiver import Receiver


@pytest.fixture
def receiver() -> Generator[Receiver]:
    """Listen where the program sends its telemetry."""
    with Receiver() as listening:
        yield listening
