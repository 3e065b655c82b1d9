"""Who uses the page: commands that send to it, and browsers that show it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, NamedTuple

from taskobs.internal import pids

FIRST: Final = 30.0
"""Seconds that the first command has to say that it is there."""
NEXT: Final = 5.0
"""Seconds that a browser has to ask again: it draws what was new, or loads the page again."""


class Command(NamedTuple):
    """A process that was started with the variables of the page."""

    pid: int
    started: int
    name: str


class Users:
    """Tells when nobody uses the page any more. Thread-safe.

    The page is in use while a command runs, while a browser shows it, and for ``stay`` seconds
    after that: time to start a command again, or to open the page again. A browser that shows it
    asks all the time what is new.
    """

    def __init__(self, stay: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.stay = stay
        self._clock = clock
        self._lock = threading.Lock()
        self._commands: dict[int, Command] = {}
        self._browsers = 0
        self._until = clock() + max(stay, FIRST)
        self._ended = False

    def attach(self, pid: int, name: str) -> bool:
        """Count a process as a user until it ends; False if the page is about to end."""
        command = Command(pid, pids.start_time(pid), name)
        with self._lock:
            if not self._ended:
                self._commands[pid] = command
                self._until = self._clock() + self.stay
            return not self._ended

    @contextmanager
    def browser(self) -> Generator[None]:
        """Count a browser as a user while it waits for what is new, and until it asks again."""
        with self._lock:
            self._browsers += 1
        try:
            yield
        finally:
            with self._lock:
                self._browsers -= 1
                self._until = max(self._until, self._clock() + max(self.stay, NEXT))

    def commands(self) -> list[Command]:
        """Return the commands that run."""
        with self._lock:
            return self._running()

    def ended(self) -> bool:
        """Tell whether nobody uses the page; from then on nobody can."""
        with self._lock:
            now = self._clock()
            if self._running() or self._browsers:
                self._until = max(self._until, now + self.stay)
                return False
            self._ended = now >= self._until
            return self._ended

    def _running(self) -> list[Command]:
        running = [one for one in self._commands.values() if pids.alive(one.pid, one.started)]
        self._commands = {one.pid: one for one in running}
        return running
