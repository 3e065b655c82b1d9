"""Which runs are kept though their trace is not sampled: what ``keep`` of ``init()`` says.

``init()`` imports this, so it imports no SDK.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

NAMES: Final = ("failed", "lost", "retried")
SLOWER_THAN: Final = "slower than "
_SLOWER: Final = re.compile(r"slower than (\d+(?:\.\d+)?) ?(ms|s|min|h)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}


class KeepRules(NamedTuple):
    """What a run has to be to be kept: one of these is enough."""

    failed: bool = False
    """An error: all that makes an event in Sentry, lost runs included."""
    lost: bool = False
    retried: bool = False
    slower: float = math.inf
    """Seconds: it took longer than this."""


KEEP_NOTHING: Final = KeepRules()


def parse(entries: Iterable[str]) -> KeepRules:
    """Read the entries of ``keep``; of several durations, the shortest counts.

    Raises:
        ValueError: an entry is no rule; the error has it as its argument.
    """
    named: set[str] = set()
    slower = math.inf
    for entry in entries:
        found = _SLOWER.fullmatch(entry)
        if entry in NAMES:
            named.add(entry)
        elif found is not None and float(found[1]) > 0:
            slower = min(slower, float(found[1]) * _SECONDS[found[2]])
        else:
            raise ValueError(entry)
    return KeepRules(**dict.fromkeys(named, True), slower=slower)
