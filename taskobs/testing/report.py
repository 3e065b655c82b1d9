"""Says what was recorded, for the message of an assertion that fails."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Final

_MOST: Final = 30
"""Lines of one kind; the rest is counted."""


def listed(title: str, lines: Iterable[object]) -> str:
    """Return a title and, below it, one line for each."""
    found = [str(line) for line in lines]
    if not found:
        return f"{title}: none"
    rest = [f"and {len(found) - _MOST} more"] if len(found) > _MOST else []
    return "\n".join([f"{title}:", *(f"  {line}" for line in [*found[:_MOST], *rest])])


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a question that names what may have been meant; empty if nothing is near."""
    found = difflib.get_close_matches(name, sorted(set(names)), n=1)
    return f" Did you mean {found[0]!r}?" if found and found[0] != name else ""


def described(kind: str, name: str | None, criteria: Mapping[str, object]) -> str:
    """Return what was asked for, such as ``run shop.charge with attempt=2``."""
    given = ", ".join(f"{key}={value!r}" for key, value in criteria.items() if value is not None)
    return f"{kind}{f' {name}' if name else ''}{f' with {given}' if given else ''}"
