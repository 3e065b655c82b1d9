"""Where envelopes may be sent: to the Sentry clients that this worker's processes have announced.

A spool's file does not say where to. It has digests of what was announced when an envelope came,
so that whoever can write to the file can't have events sent to an address of theirs. What waits for
a client that nobody has announced is *parked*: kept, and not sent.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from taskobs.protocol import frames
from taskobs.protocol.frames import FrameError

MOST: Final = 200
"""DSNs that one worker may have; SQLite before 3.32 takes 999 values in a statement at most."""
DSN_DIGEST: Final = 32
"""Bytes that an id begins with, the same for all clients of one DSN."""


class Destinations:
    """Announcements (an item's ``resource_blob``) and their ids. Not thread-safe."""

    def __init__(self) -> None:
        self._ids: dict[bytes, bytes] = {}
        self._announcements: dict[bytes, bytes] = {}
        self._latest: dict[bytes, bytes] = {}
        """By the digest of a DSN, what was announced last for it."""

    def announce(self, announcement: bytes) -> bytes | None:
        """Note a client; return the digest of its DSN if that is new.

        Raises:
            OverflowError: there are too many.
        """
        if announcement in self._ids:
            return None
        number = _id(announcement)
        dsn = number[:DSN_DIGEST]
        new = dsn not in self._latest
        if new and len(self._latest) >= MOST:
            raise OverflowError(f"more than {MOST} Sentry clients")
        if len(self._ids) >= MOST:  # one more of a DSN that is known: the latest is used for all
            self._ids.clear()
            self._announcements.clear()
        self._ids[announcement] = number
        self._announcements[number] = announcement
        self._latest[dsn] = announcement
        return dsn if new else None

    def id_of(self, announcement: bytes) -> bytes:
        """Return the id under which the file has what was announced."""
        return self._ids.get(announcement) or _id(announcement)

    def find(self, number: bytes) -> bytes | None:
        """Return the announcement with an id, or else the latest for the same DSN."""
        return self._announcements.get(number) or self._latest.get(number[:DSN_DIGEST])

    @property
    def dsns(self) -> list[bytes]:
        """The digests of all DSNs that were announced."""
        return list(self._latest)


def _id(announcement: bytes) -> bytes:
    return _digest_of_dsn(announcement) + sha256(announcement).digest()


def _digest_of_dsn(announcement: bytes) -> bytes:
    """Return the digest of a client's DSN; of all of it if it is no announcement."""
    try:
        client = frames.unpack(announcement)
    except FrameError:
        client = None
    match client:
        case {"dsn": str(dsn)}:
            return sha256(dsn.encode(errors="replace")).digest()
        case _:
            return sha256(announcement).digest()
