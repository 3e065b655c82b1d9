"""Keeps what taskobs logs in the doctor's own process: it is evidence, and no output."""

from __future__ import annotations

import logging
from typing import Final

_log: Final = logging.getLogger("taskobs")


class LogLines(logging.Handler):
    """Collects warnings in a list, for the length of a block.

    As there is a handler, Python prints none of them by itself.
    """

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._lines.append(record.getMessage())

    def __enter__(self) -> None:
        _log.addHandler(self)

    def __exit__(self, *_: object) -> None:
        _log.removeHandler(self)
