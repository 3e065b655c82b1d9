"""Why a request failed: the cause of an error, or a backend's words, without secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote_plus, urlsplit

_CAUSES: Final = 10
"""How deep an error's causes are followed: they may form a circle."""

_MASK: Final = "***"
_SHORTEST: Final = 4
"""Characters of a secret; a shorter value would mask parts of common words."""
_PUBLIC: Final = frozenset(
    {
        *("accept", "accept-encoding", "connection", "content-encoding", "content-length"),
        *("content-type", "host", "user-agent"),
    }
)
"""Headers that exporters and HTTP libraries set by themselves."""


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


def masked(text: str, secrets: Iterable[str]) -> str:
    """Replace each secret in a text, such as a key that a backend repeats when it refuses it."""
    # The longest first: one may be a part of another.
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, _MASK)
    return text


def secrets_of_headers(headers: Iterable[tuple[str, str | bytes]]) -> Iterator[str]:
    """Give the values of headers that may be secret, with and without what names their scheme."""
    for name, given in headers:
        value = given.decode("latin-1") if isinstance(given, bytes) else given
        if name.lower() not in _PUBLIC:
            yield value
            yield value.partition(" ")[2]


def secrets_of_url(url: str) -> Iterator[str]:
    """Give the password of a URL and the values of its query, as they stand there and decoded."""
    parts = urlsplit(url)
    values = [pair.partition("=")[2] for pair in parts.query.split("&")]
    for value in (*values, parts.password or ""):
        yield value
        yield unquote_plus(value)
