"""Where numbered frames come from, as far as it matters when they are safe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict


class Source(ABC):
    """Knows which of its frames are not settled: neither out, nor given up, nor safe on disk.

    What is acknowledged is all up to the first of these.
    """

    def __init__(self) -> None:
        # The first of a dict is slow to find once many before it have gone.
        self._unsettled: OrderedDict[int, None] = OrderedDict()

    @property
    def settled(self) -> bool:
        """Whether nothing has to be kept for its sake."""
        return not self._unsettled

    def arrived(self, *, settled: bool) -> int:
        """Note the numbered frame that is being taken; return its number."""
        number = self._number()
        if not settled:
            self._unsettled[number] = None
        return number

    def expect(self, number: int) -> None:
        """Note what has to be settled, but has no frame."""
        self._unsettled[number] = None

    def settle(self, number: int) -> None:
        """Note that a frame is out, given up, or safe on disk."""
        self._unsettled.pop(number, None)

    @abstractmethod
    def _number(self) -> int:
        """Return the number of the frame that is being taken: larger than any before."""

    def _first_unsettled(self) -> int | None:
        return next(iter(self._unsettled), None)
