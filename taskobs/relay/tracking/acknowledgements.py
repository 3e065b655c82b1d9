"""Tracks, for each source of numbered frames, which of them are settled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict


class Source(ABC):
    """A connection, slot or table, with its frames that are neither sent, dropped nor on disk.

    All frames before the first of these are acknowledged.
    """

    def __init__(self) -> None:
        # Not a dict: CPython finds a dict's first key by scanning the deleted ones before it.
        self._unsettled: OrderedDict[int, None] = OrderedDict()

    @property
    def settled(self) -> bool:
        """Whether all of its frames are settled."""
        return not self._unsettled

    def arrived(self, *, settled: bool) -> int:
        """Note the numbered frame that is being handled; return its number."""
        number = self._number()
        if not settled:
            self._unsettled[number] = None
        return number

    def expect(self, number: int) -> None:
        """Note something that has to be settled though no frame carries it."""
        self._unsettled[number] = None

    def settle(self, number: int) -> None:
        """Note that a frame is sent, dropped, or safe on disk."""
        self._unsettled.pop(number, None)

    @abstractmethod
    def _number(self) -> int:
        """Return the number of the frame that is being handled: larger than any before."""

    def _first_unsettled(self) -> int | None:
        return next(iter(self._unsettled), None)
