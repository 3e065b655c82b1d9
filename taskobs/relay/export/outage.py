"""One log line when a backend stops accepting telemetry, and one when it accepts it again."""

from __future__ import annotations

import logging
import time
from typing import Final

from taskobs.relay.export.responses import ExportResult

_log = logging.getLogger("taskobs.relay")
_QUIET: Final = 60.0
"""Seconds between two outages that are logged, so that a flapping backend doesn't fill the log."""


class Outage:
    """The state of one backend. Not thread-safe."""

    def __init__(self, export: str) -> None:
        """``export`` is what the log calls it, such as "span export"."""
        self.reason = ""
        """Why the last attempt failed; empty while the backend works."""
        self._export = export
        self._since = 0.0
        self._logged_at = -_QUIET
        self._logged = False

    def began(self, result: ExportResult) -> None:
        """Note an attempt that will be repeated."""
        now = time.monotonic()
        if not self.reason:
            self._since = now
            self._logged = now - self._logged_at >= _QUIET
            if self._logged:
                self._logged_at = now
                _log.warning("taskobs relay: %s failed, retrying: %s", self._export, result.text)
        self.reason = result.text

    def ended(self) -> None:
        """Note a batch that was accepted."""
        if self.reason and self._logged:
            took = time.monotonic() - self._since
            _log.warning("taskobs relay: %s works again, after %.0f s", self._export, took)
        self.reason = ""
