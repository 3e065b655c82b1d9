"""Masks keys and tokens in what a backend says: some repeat them, and their words are logged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote_plus, urlsplit

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


def masked(text: str, secrets: Iterable[str]) -> str:
    """Replace each secret in a text."""
    # The longest first: one may be a part of another.
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, _MASK)
    return text


def of_headers(headers: Iterable[tuple[str, str | bytes]]) -> Iterator[str]:
    """Give the values of headers that may be secret, with and without what names their scheme."""
    for name, given in headers:
        value = given.decode("latin-1") if isinstance(given, bytes) else given
        if name.lower() not in _PUBLIC:
            yield value
            yield value.partition(" ")[2]


def of_url(url: str) -> Iterator[str]:
    """Give the password of a URL and the values of its query, as they stand there and decoded."""
    parts = urlsplit(url)
    values = [pair.partition("=")[2] for pair in parts.query.split("&")]
    for value in (*values, parts.password or ""):
        yield value
        yield unquote_plus(value)
