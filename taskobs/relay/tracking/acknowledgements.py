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
        self._unsettled: OrderedDict[int, int] = OrderedDict()
        """By the number of a frame, at how many destinations its content is not settled yet."""

    @property
    def settled(self) -> bool:
        """Whether all of its frames are settled."""
        return not self._unsettled

    def arrived(self, *, settled: bool) -> int:
        """Note the numbered frame that is being handled; return its number."""
        number = self._number()
        if not settled:
            self._unsettled[number] = 1
        return number

    def expect(self, number: int, times: int = 1) -> None:
        """Note what has to be settled so often: a frame, or something that no frame carries."""
        self._unsettled[number] = times

    def settle(self, number: int) -> None:
        """Note that a frame is sent, dropped, or safe on disk: at one of its destinations."""
        left = self._unsettled.get(number, 1) - 1
        if left > 0:
            self._unsettled[number] = left
        else:
            self._unsettled.pop(number, None)

    def is_settled(self, number: int) -> bool:
        """Tell whether a frame is settled."""
        return number not in self._unsettled

    def forget(self, number: int) -> None:
        """Wait for a frame no longer, whatever becomes of it."""
        self._unsettled.pop(number, None)

    @abstractmethod
    def _number(self) -> int:
        """Return the number of the frame that is being handled: larger than any before."""

    def _first_unsettled(self) -> int | None:
        return next(iter(self._unsettled), None)
