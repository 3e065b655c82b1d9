"""Programs in which no coverage is measured: it would take them twice as long, and memory."""

from __future__ import annotations

import os


def unmeasured() -> dict[str, str]:
    """Give the environment of the test without what has coverage measured in its processes."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
