"""A thread that continues writing while its process is idle.

Only a process without a slot in shared memory needs it: frames that the socket did not take would
stay in its memory until it records something else.
"""

from __future__ import annotations

import time
from _thread import start_new_thread
from collections.abc import Callable
from typing import Final

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.25
"""Seconds between two attempts. They grow, as an outage of the backend may last for hours."""


class IdleWriter:
    """Calls ``write`` until ``settled`` says that nothing is left; then the thread ends.

    Under gevent and eventlet, which replace the function that starts a thread, it is a greenlet.
    A forked child makes its own.
    """

    def __init__(self, write: Callable[[], object], settled: Callable[[], bool]) -> None:
        self._write = write
        self._settled = settled
        self._start_tokens = [self]  # one thread at a time; ``del`` and ``append`` are atomic

    def start(self) -> None:
        """Start the thread if there is none and something is left to write.

        ``threading.Thread`` would take locks: the caller may be a finalizer or a signal handler
        that interrupted their holder.
        """
        if self._settled():
            return
        try:
            del self._start_tokens[-1]
        except IndexError:
            return
        try:
            start_new_thread(self._run, ())
        except RuntimeError:  # no thread can be had, or the interpreter is shutting down
            self._start_tokens.append(self)
        except BaseException:  # a time limit's signal: perhaps two threads, rather than none
            self._start_tokens.append(self)
            raise

    def _run(self) -> None:
        try:
            pause = _FIRST_PAUSE
            while not self._settled():
                time.sleep(pause)
                self._write()
                pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            self._start_tokens.append(self)
        # A frame that was added after the last check found no token, so its sender started no
        # thread.
        self.start()
