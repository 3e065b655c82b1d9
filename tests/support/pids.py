"""Ids of processes for tests that need one of a process which has ended."""

from __future__ import annotations

from typing import Final

NO_PROCESS: Final = 2**22 + 1
"""The id of no process: Linux gives none above 2**22 (see ``pid_max`` in proc(5)), macOS fewer."""
