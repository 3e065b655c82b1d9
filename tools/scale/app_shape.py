"""What the app of the measured workers looks like. The app itself can only be imported set up."""

from __future__ import annotations

from typing import Final

NAMES: Final = 20
FAILING: Final = 20
"""Of so many tasks of a name one fails, where any do."""
INSIDE: Final = 4
"""Spans inside a run, where there are any: as of two queries, a cache and an HTTP call."""
