"""The exception that is being handled, where this is called."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from sys import exception as handled
else:

    def handled() -> BaseException | None:
        """Return it; since Python 3.11 ``sys.exception()`` does, in half the time."""
        return sys.exc_info()[1]


__all__ = ["handled"]
