"""Where items came from that would be lost if the relay were killed now.

They are not acknowledged until they are safe, so that their processes keep them as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from taskobs.relay.storage.items import Stored

MOST: Final = 50_000
"""How many are kept while a spool can't be made safe; the oldest count as settled then."""


class UnsafeSources:
    """Sources by the ids of their items. Not thread-safe."""

    def __init__(self) -> None:
        self._unsafe: dict[int, object] = {}
        self._settled: list[object] = []

    def __bool__(self) -> bool:
        return bool(self._unsafe or self._settled)

    def add(self, stored: Iterable[Stored]) -> None:
        """Note items that were written, but may not be safe yet."""
        for one in stored:
            if one.item.source is not None:
                self._unsafe[one.id] = one.item.source
        while len(self._unsafe) > MOST:
            self._settled.append(self._unsafe.pop(next(iter(self._unsafe))))

    def discard(self, stored: Iterable[Stored]) -> None:
        """Note items that were sent or dropped: nobody needs to keep them any more."""
        for one in stored:
            source = self._unsafe.pop(one.id, one.item.source)
            if source is not None:
                self._settled.append(source)

    def take(self, *, safe: bool) -> list[object]:
        """Return, once, the sources that are settled; with ``safe``, all of them are."""
        if safe:
            self._settled += self._unsafe.values()
            self._unsafe.clear()
        settled, self._settled = self._settled, []
        return settled
