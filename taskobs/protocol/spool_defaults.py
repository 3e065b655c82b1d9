"""How much a spool keeps, where the settings say nothing: the worker and its relay agree on it."""

from __future__ import annotations

from typing import Final

BYTES: Final = 256 * 1024 * 1024
AGE: Final = 86_400.0
"""Seconds after which an item is dropped unsent."""
