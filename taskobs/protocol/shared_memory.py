"""Memory that the processes of a worker share with its relay, and that outlives each of them.

Each process writes its telemetry into a slot of its own, which takes no system call; the relay
reads the slots several times a second. The worker's main process holds the memory open. So what a
process wrote just before it was killed is still there for the relay, and what a killed relay has
not sent yet is still there for the next one.

The memory comes from ``memfd_create(2)``, which only Linux has. Elsewhere everything goes over the
socket.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from contextlib import suppress
from struct import Struct
from typing import Final
from zlib import crc32

from taskobs.internal import pids

SLOTS: Final = 1_024
"""Processes that can have a slot at a time, dead ones with unsent telemetry included."""
PAGE: Final = 64 * 1024
"""All offsets are aligned to this: the largest page size that Linux has."""

# Offsets in a slot, in bytes.
HELLO_AT: Final = 4_096
DESTINATIONS_AT: Final = 48 * 1024
MAX_HELLO: Final = DESTINATIONS_AT - HELLO_AT
MAX_DESTINATIONS: Final = PAGE - DESTINATIONS_AT
OPEN_AT: Final = PAGE
OPEN: Final = 256
"""Entries of the table of open spans."""
OPEN_BYTES: Final = 2_048
"""Bytes of the longest packed span in the table. Others go through the ring."""
RING_AT: Final = OPEN_AT + OPEN * OPEN_BYTES
RING: Final = 8 * 1024 * 1024
"""Bytes of frames that have been written and not been acknowledged yet.

Pages take memory from their first write until ``discard``, so that a usual slot takes less than
half a megabyte.
"""
SLOT_BYTES: Final = RING_AT + RING

# A slot begins with these words of 64 bits. An aligned word is written by one instruction, so a
# reader sees its old value or its new one. That makes a word the last step of each update:
# what was written before it is valid from then on. Each word has one writer.
WRITTEN: Final = 0
"""Bytes that were ever written to the ring. Set by the process."""
RELEASED: Final = 1
"""Bytes of these that are safe: a relay that starts reads from here. Set by the relay."""
UNAVAILABLE: Final = 2
"""Whether there is no relay and won't be one. Set by the worker's main process."""
CLOSED: Final = 3
"""Whether the process will write no more. Set by the process."""
PID: Final = 4
STARTED: Final = 5
"""The process's ``pids.start_time``."""
HELLO: Final = 6
"""A ``stamp`` of the HELLO payload."""
TAKER: Final = 7
"""The id of the process that took the slot; ``PID`` is only set once the slot is filled in."""
REUSABLE: Final = 8
"""Bytes of the ring that may be overwritten: up to ``RELEASED``, in steps. Set by the relay."""
DESTINATIONS: Final = 12
"""A ``stamp`` of the packed list of destinations that the process's Sentry clients send to.

Each envelope says where it goes, too; this is for what an earlier relay has left on disk. Set by
the process, again when there are more.
"""
DROPPED: Final = 16
"""From here on, by `FrameKind`: frames that the ring had no room for. Set by the process."""
DROPPED_COUNTED: Final = 32
"""From here on, by `FrameKind`: how many of these the relay has counted. Set by the relay."""
DEFERRED: Final = 48
"""From here on, by `FrameKind`: frames in the process's own memory, as another thread writes.

They are lost if the process is killed at this moment, so the relay counts them. Set by the process.
"""
KINDS: Final = 16
"""Words for one figure of each `FrameKind` that a process writes."""
OPEN_WORDS: Final = 64
"""From here on, one ``stamp`` for each entry of the table of open spans; 0 for a free entry."""
WORDS: Final = OPEN_WORDS + OPEN
WORD: Final = 8

BYTE_ORDER: Final = sys.byteorder
_EXPORTED_HEAD: Final = Struct("=III")
_EXPORTED_AT: Final = PAGE + SLOTS * SLOT_BYTES
MAX_EXPORTED: Final = 4 * 1024 * 1024
"""Bytes of the sums that a backend has accepted; there is room for two of these."""
_WHOLE: Final = _EXPORTED_AT + 2 * MAX_EXPORTED
_USED: Final = b"\1"
_FREE: Final = b"\0"

# The first page: one byte for each slot, then what concerns all processes.
_UNAVAILABLE_AT: Final = SLOTS
_MAIN_AT: Final = 4_096
_RELAY_AT: Final = _MAIN_AT + 2 * WORD
_EXPORTED_WORD: Final = _RELAY_AT + 2 * WORD
"""Of the sums that a backend has accepted: which of the two, their length, their checksum."""
_METRICS_PORT_AT: Final = _EXPORTED_WORD + 2 * WORD
_ADDRESS_AT: Final = 8_192
_MAX_ADDRESS: Final = 255
_MAX_PORT: Final = 65_535

_LOWEST_FD: Final = 10
"""A new program gets its descriptors below this."""
_SEALS: Final[int] = (
    getattr(fcntl, "F_SEAL_SEAL", 0)
    | getattr(fcntl, "F_SEAL_SHRINK", 0)
    | getattr(fcntl, "F_SEAL_GROW", 0)
)


class SharedMemory:
    """Shared memory with a slot for each process; its first page says which are taken.

    It is sparse: nothing takes memory before it is written to. Not thread-safe.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def create(cls) -> SharedMemory | None:
        """Return new memory that belongs to this process; None where there can't be any."""
        try:
            low = os.memfd_create("taskobs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except (AttributeError, OSError):
            return None
        try:
            # The only copy: closing any copy would release the lock that ``take`` holds, as POSIX
            # has it for locks of a process.
            descriptor = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
        finally:
            os.close(low)
        try:
            os.ftruncate(descriptor, _WHOLE)
            # Reading a mapped page beyond the end of a file kills the reader (SIGBUS). The seals
            # keep every process of this user, through /proc too, from changing the size.
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except OSError:  # RLIMIT_FSIZE, or a kernel without seals
            os.close(descriptor)
            return None
        made = cls(descriptor)
        made._note(_MAIN_AT, os.getpid())
        return made

    @classmethod
    def of(cls, pid: int, descriptor: int) -> SharedMemory | None:
        """Return the memory that another process of this user holds; None if it is unavailable."""
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
        """Whether it has its full size for good, so that every part of it can be mapped."""
        try:
            sealed = fcntl.fcntl(self.descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
            return sealed and os.fstat(self.descriptor).st_size == _WHOLE
        except OSError:
            return False

    # What concerns all processes.

    @property
    def unavailable(self) -> bool:
        """Whether the main process has given up the relay."""
        return os.pread(self.descriptor, 1, _UNAVAILABLE_AT) == _USED

    @property
    def abandoned(self) -> bool:
        """Whether no relay reads this any more, nor will.

        The main process notes that here. If it was killed, no relay reads once the current one
        has ended, too.
        """
        try:
            return self.unavailable or not (self._lives(_MAIN_AT) or self._lives(_RELAY_AT))
        except OSError:
            return False

    @property
    def address(self) -> str:
        """Where the relay listens now; empty if it was not noted."""
        try:
            length, *text = os.pread(self.descriptor, 1 + _MAX_ADDRESS, _ADDRESS_AT)
        except (OSError, ValueError):
            return ""
        return os.fsdecode(bytes(text[:length]))

    def set_address(self, address: str) -> None:
        """Note where the relay listens, for processes that no longer find its socket."""
        text = os.fsencode(address)[:_MAX_ADDRESS]
        with suppress(OSError):
            os.pwrite(self.descriptor, bytes([len(text)]) + text, _ADDRESS_AT)

    def relay_started(self, pid: int) -> None:
        """Note which process is the relay."""
        with suppress(OSError):
            self._note(_RELAY_AT, pid)

    @property
    def metrics_port(self) -> int:
        """The port at which a relay has served metrics; 0 if none has."""
        try:
            data = os.pread(self.descriptor, WORD, _METRICS_PORT_AT)
        except OSError:
            return 0
        return int.from_bytes(data, BYTE_ORDER) & _MAX_PORT

    def note_metrics_port(self, port: int) -> None:
        """Keep the port for a relay that takes over: a scraper finds it at the same one."""
        with suppress(OSError):
            os.pwrite(self.descriptor, port.to_bytes(WORD, BYTE_ORDER), _METRICS_PORT_AT)

    def abandon(self) -> None:
        """Tell all processes, also those that start later, that there is no relay any more."""
        with suppress(OSError):
            # In this order: a slot that is taken after the loop sees the byte of the first page.
            os.pwrite(self.descriptor, _USED, _UNAVAILABLE_AT)
            for index in self.taken():
                self.write_word(index, UNAVAILABLE, 1)

    def note_exported(self, data: bytes) -> None:
        """Keep the sums that a backend of deltas has accepted, for a relay that takes over."""
        if len(data) > MAX_EXPORTED:
            return
        with suppress(OSError):
            which = 1 - self._exported_head()[0]
            os.pwrite(self.descriptor, data, _EXPORTED_AT + which * MAX_EXPORTED)
            # Last, and within a page: a relay that is killed above leaves the sums before.
            head = _EXPORTED_HEAD.pack(which, len(data), crc32(data))
            os.pwrite(self.descriptor, head, _EXPORTED_WORD)

    def exported(self) -> bytes | None:
        """Return what was kept last; None if nothing was."""
        try:
            which, size, checksum = self._exported_head()
            size = min(size, MAX_EXPORTED)
            data = os.pread(self.descriptor, size, _EXPORTED_AT + which * MAX_EXPORTED)
        except OSError:
            return None
        return data if data and crc32(data) == checksum else None

    def _exported_head(self) -> tuple[int, int, int]:
        head = os.pread(self.descriptor, _EXPORTED_HEAD.size, _EXPORTED_WORD)
        which, size, checksum = _EXPORTED_HEAD.unpack(head)
        return which & 1, size, checksum

    def _note(self, at: int, pid: int) -> None:
        words = (pid, pids.start_time(pid))
        data = b"".join(word.to_bytes(WORD, BYTE_ORDER) for word in words)
        os.pwrite(self.descriptor, data, at)

    def _lives(self, at: int) -> bool:
        data = os.pread(self.descriptor, 2 * WORD, at)
        pid, started = (int.from_bytes(data[i : i + WORD], BYTE_ORDER) for i in (0, WORD))
        return pid > 0 and pids.alive(pid, started)

    # Slots.

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
        """Return a part of a slot, without mapping it."""
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

        The lock is held for microseconds, and the kernel releases it if its holder dies.

        Raises:
            OSError: there is something wrong with the memory.
        """
        try:  # of the lock, too: a signal may raise between that call and the next
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX, 1)
            index = os.pread(self.descriptor, SLOTS, 0).find(_FREE)
            if index >= 0:
                # In this order: a slot in use has a taker, and the relay frees it if that one dies.
                self.write_word(index, TAKER, os.getpid())
                os.pwrite(self.descriptor, _USED, index)
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1)
        return None if index < 0 else index

    def free(self, index: int) -> None:
        """Return a slot's memory to the system; whoever takes it next finds its words 0.

        Raises:
            OSError: there is something wrong with the memory.
        """
        # Zeros are written, as ``discard`` may do nothing.
        os.pwrite(self.descriptor, bytes(WORDS * WORD), _offset(index))
        self.discard(index, 0, SLOT_BYTES)
        os.pwrite(self.descriptor, _FREE, index)  # last: from now on it may be taken

    def discard(self, index: int, at: int, size: int) -> None:
        """Return the pages of a part of a slot to the system; they read as zeros afterwards.

        Where that can't be done, they stay in memory, and nothing else changes.
        """
        with suppress(OSError, ValueError), self.map(index) as whole:
            whole.madvise(mmap.MADV_REMOVE, at, size)

    def close(self) -> None:
        """Close the descriptor; slots that are mapped stay mapped."""
        # Forgotten first: its number may soon be another file's.
        descriptor, self.descriptor = self.descriptor, -1
        with suppress(OSError):
            os.close(descriptor)


def _offset(index: int) -> int:
    return PAGE + index * SLOT_BYTES
