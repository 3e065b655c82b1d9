"""Why a request failed: the first cause of an error, in words without secrets."""

from __future__ import annotations

from typing import Final

_CAUSES: Final = 10
"""How deep an error's causes are followed: they may form a circle."""


def innermost(error: BaseException) -> BaseException:
    """Return the first cause of an error."""
    inner = error
    for _ in range(_CAUSES):
        # urllib3 and requests have the cause in an attribute, sometimes in the only argument.
        below = getattr(inner, "reason", None) or inner.__cause__ or inner.__context__
        if not isinstance(below, BaseException):
            break
        inner = below
    return inner


def describe(error: BaseException) -> str:
    """Return an error's type, and what the system says of it.

    Never the rest of its text, which may contain a URL with a secret.
    """
    name = type(error).__name__
    said = error.strerror if isinstance(error, OSError) else None
    return f"{name}: {said}" if said else name
