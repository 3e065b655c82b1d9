"""Values that the app gives to what follows: kept, on records, and in messages.

Here is what says whether there are any. Each process looks at that, and most have no use for the
modules of this package.
"""

from __future__ import annotations

from typing import Final


class _State:
    """What is the same in all threads of the process."""

    in_use = False
    """Whether any value was ever set, or may come with a message: looked at before any call."""
    keys: frozenset[str] = frozenset()
    """What is taken from messages."""


state: Final = _State()


def accept(keys: frozenset[str]) -> None:
    """Take these keys from messages from now on, and no others."""
    state.keys = keys
    state.in_use = state.in_use or bool(keys)
