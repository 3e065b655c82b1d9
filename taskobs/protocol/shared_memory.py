"""SharedMemory that the processes of a worker share with its relay, and that outlives either.

A process writes what it has to tell into a slot of its own, which costs no system call; the
relay reads it a few times a second. The worker's parent holds the memory: what a killed process
wrote last is there for the relay, and what a killed relay has not sent yet for the next one.

Only where there is ``memfd_create(2)``, which is Linux; elsewhere all goes over the socket.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from contextlib import suppress
from typing import Final

SLOTS: Final = 256
"""Processes at a time; those beyond use the socket alone."""
PAGE: Final = 64 * 1024
"""What everything begins at a multiple of: the largest page that Linux has."""

# Where things are in a slot, in bytes from its beginning.
HELLO_AT: Final = 4_096
MAX_HELLO: Final = PAGE - HELLO_AT
OPEN_AT: Final = PAGE
OPEN: Final = 256
"""Spans that can be open at a time; those beyond are told of over the socket."""
OPEN_BYTES: Final = 2_048
"""Bytes of the longest packed span in that table."""
RING_AT: Final = OPEN_AT + OPEN * OPEN_BYTES
RING: Final = 512 * 1024
"""Bytes of frames that have been written and are not safe with the relay yet."""
SLOT_BYTES: Final = RING_AT + RING

# The words of 64 bits that a slot begins with. One word is written at once: whatever else has
# been written counts from then on.
WRITTEN: Final = 0
"""Bytes that were ever written to the ring; by the process."""
RELEASED: Final = 1
"""Bytes of these that are safe, and may be written over; by the relay."""
UNAVAILABLE: Final = 2
"""Whether there is no relay any more, nor will be; by the worker's parent."""
CLOSED: Final = 3
"""Whether the process will write no more; by the process."""
PID: Final = 4
STARTED: Final = 5
"""See ``pids.start_time``."""
HELLO: Final = 6
"""A ``stamp`` of the HELLO payload."""
TAKER: Final = 7
"""The id of the process that has taken the slot, and has not said yet who it is."""
OPEN_WORDS: Final = 64
"""From here, a ``stamp`` for each place of the table of open spans; 0 when it is free."""
WORDS: Final = OPEN_WORDS + OPEN
WORD: Final = 8

BYTE_ORDER: Final = sys.byteorder
_WHOLE: Final = PAGE + SLOTS * SLOT_BYTES
_UNAVAILABLE_AT: Final = SLOTS
_USED: Final = b"\1"
_FREE: Final = b"\0"
_LOWEST_FD: Final = 10
"""Below are those that a process that is started gets its own at."""


class SharedMemory:
    """Shared memory with a slot for each process; its first page says which are taken.

    Nothing of it takes room before it is written to. Not thread-safe.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def create(cls) -> SharedMemory | None:
        """Return new memory; None where it can't be had."""
        try:
            low = os.memfd_create("taskobs")
        except (AttributeError, OSError):
            return None
        try:
            # Never dup'ed again: closing a copy would let go of the lock that ``take`` holds.
            descriptor = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
        finally:
            os.close(low)
        try:
            os.ftruncate(descriptor, _WHOLE)
        except OSError:  # a limit on the size of files
            os.close(descriptor)
            return None
        return cls(descriptor)

    @classmethod
    def of(cls, pid: int, descriptor: int) -> SharedMemory | None:
        """Return the memory that another process of this user holds; None if it can't be had."""
        try:
            memory = cls(os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return None
        if memory.whole:
            return memory
        memory.close()
        return None

    @property
    def whole(self) -> bool:
        """Whether it is as large as it has to be: what is not there can't be read or written."""
        try:
            return os.fstat(self.descriptor).st_size == _WHOLE
        except OSError:
            return False

    @property
    def unavailable(self) -> bool:
        """Whether there is no relay any more."""
        return os.pread(self.descriptor, 1, _UNAVAILABLE_AT) == _USED

    def taken(self) -> list[int]:
        """Return the numbers of the slots that are taken.

        Raises:
            OSError: the memory can't be read.
        """
        return [index for index, one in enumerate(os.pread(self.descriptor, SLOTS, 0)) if one]

    def map(self, index: int) -> mmap.mmap:
        """Return a slot's memory.

        Raises:
            OSError, ValueError: it can't be mapped.
        """
        return mmap.mmap(self.descriptor, SLOT_BYTES, offset=_offset(index))

    def read(self, index: int, at: int, size: int) -> bytes:
        """Return what is at a place in a slot, without mapping it."""
        return os.pread(self.descriptor, size, _offset(index) + at)

    def read_word(self, index: int, word: int) -> int:
        """Return a word of a slot."""
        return int.from_bytes(self.read(index, word * WORD, WORD), BYTE_ORDER)

    def write_word(self, index: int, word: int, value: int) -> None:
        """Set a word of a slot."""
        data = value.to_bytes(WORD, BYTE_ORDER)
        os.pwrite(self.descriptor, data, _offset(index) + word * WORD)

    def take(self) -> int | None:
        """Take a free slot; None if there is none.

        The lock is held for microseconds, and by nobody who is dead.

        Raises:
            OSError: there is something wrong with the memory.
        """
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX, 1)
        try:
            index = os.pread(self.descriptor, SLOTS, 0).find(_FREE)
            if index >= 0:
                self.write_word(index, TAKER, os.getpid())
                os.pwrite(self.descriptor, _USED, index)
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1)
        return None if index < 0 else index

    def free(self, index: int) -> None:
        """Give a slot's room back; whoever takes it next finds its words 0.

        Raises:
            OSError: there is something wrong with the memory.
        """
        os.pwrite(self.descriptor, bytes(WORDS * WORD), _offset(index))
        with suppress(OSError, ValueError), self.map(index) as whole:  # else it is still in use
            whole.madvise(mmap.MADV_REMOVE)
        os.pwrite(self.descriptor, _FREE, index)

    def abandon(self) -> None:
        """Tell all processes, also those that will be, that there is no relay any more."""
        with suppress(OSError):
            os.pwrite(self.descriptor, _USED, _UNAVAILABLE_AT)
            for index in self.taken():
                self.write_word(index, UNAVAILABLE, 1)

    def close(self) -> None:
        """Let go of the memory; slots that are mapped stay so."""
        with suppress(OSError):
            os.close(self.descriptor)


def _offset(index: int) -> int:
    return PAGE + index * SLOT_BYTES
