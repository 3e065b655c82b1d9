"""Lets the relay import whatever its worker can import.

A worker's ``sys.path`` may have been made in code (PEX, Bazel, a script of the app's), so that a
new interpreter lacks it. Imported by ``__main__`` alone, before all that isn't in the standard
library. The entries go to the end: a module of the app must not take the place of one of the
standard library.
"""

from __future__ import annotations

import os
import sys

from taskobs.protocol.startup import SEARCH_PATH


def _extend_path() -> None:
    entries = os.environ.pop(SEARCH_PATH, "").split(os.pathsep)
    sys.path.extend(entry for entry in entries if entry and entry not in sys.path)


_extend_path()
