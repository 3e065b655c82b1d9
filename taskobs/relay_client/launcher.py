"""Starts the relay of a worker, and restarts it when it has died.

There is no thread: the worker's main process calls ``poll`` every second. The listening socket
belongs to the worker, so that its processes can connect, and write, while a relay is being started.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay_client import relay_command
from taskobs.relay_client.listener import Listener
from taskobs.relay_client.spawning import SpawnedRelay, spawn

_log: Final = logging.getLogger("taskobs")
_PAUSES: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds between a death and the next start; after the first death there is no pause."""
_ANSWER_WITHIN: Final = 60.0
"""Seconds in which a relay must say that it serves; a busy machine takes long to start one."""
_YOUNG: Final = 5.0
"""A relay that dies before it is as old as this, in seconds, died at its start."""
_DEATHS_AT_START: Final = 3
_OLD: Final = 60.0
"""After the death of a relay that was older than this, in seconds, the pauses begin anew."""
_TICK: Final = 0.01
_LIMITS: Final = "a limit on processes or threads is reached: RLIMIT_NPROC, or the container's"


class Launcher:
    """The relay process of this worker.

    ``warn`` is called once, with the reason, if there will be no relay. Not thread-safe.
    """

    def __init__(
        self,
        configuration: Mapping[str, object],
        *,
        warn: Callable[[str], object],
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._configuration = json.dumps(configuration).encode()
        self._worker = str(configuration.get("worker") or "")
        self._command = command
        self._warn = warn
        self._clock = clock
        self._listener: Listener | None = None
        self._relay: SpawnedRelay | None = None
        self._born = self._due = 0.0
        self._deaths = self._deaths_at_start = 0
        self.address = ""
        """Where the relay listens, or has listened."""
        self.memory: SharedMemory | None = None
        """What the relay shares with this process and its children."""
        forksafe.add(self, ForkStep.EXPORT)

    @property
    def alive(self) -> bool:
        """Whether clients may connect: there is a relay, or there will be one again."""
        return self._listener is not None

    @property
    def started(self) -> bool:
        """Whether there is a relay that has reported that it is ready."""
        return self._relay is not None and self._relay.answered

    @property
    def pid(self) -> int | None:
        """The relay's process id; None while there is none."""
        return self._relay.pid if self._relay else None

    def start(self) -> bool:
        """Listen and start the relay, without waiting for it; tell whether that worked."""
        try:
            self._command = self._command or relay_command.command(self._worker)
            self._listener = Listener(os.environ)
        except OSError as error:
            self._give_up(str(error))
            return False
        self.memory = SharedMemory.create()
        self._note_address(self._listener)
        try:
            self._spawn()
        except OSError as error:
            self._give_up(_reason(error))
            if self.memory is not None:
                self.memory.close()
        return self.alive

    def poll(self) -> None:
        """Restart the relay if it has died; to be called every second or so. Returns at once."""
        if self._listener is None:
            return
        self._listen_again_if_removed(self._listener)
        relay = self._relay
        if relay is None:
            if self._clock() >= self._due:
                self._spawn_again()
            return
        relay.read_output()
        status = relay.ended()
        if status is not None:
            self._died(relay, _how(status))
        elif not relay.answered and self._clock() - self._born > _ANSWER_WITHIN:
            relay.kill()
            while relay.ended() is None:  # a killed process ends, within milliseconds
                time.sleep(_TICK)
            self._died(relay, f"it gave no sign of life within {_ANSWER_WITHIN:.0f} s")

    def _listen_again_if_removed(self, listener: Listener) -> None:
        try:
            changed = listener.listen_again_if_removed()
        except OSError as error:
            _log.debug("taskobs: the relay's socket cannot be made again: %s", error)
            return
        if changed:
            self._note_address(listener)
            if self._relay is not None:
                with suppress(OSError):  # it has died, so the next one gets it
                    self._relay.hand_over(listener.fileno())

    def _note_address(self, listener: Listener) -> None:
        self.address = listener.address
        if self.memory is not None:
            self.memory.set_address(listener.address)

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the relay to end by itself; tell whether it has."""
        end = time.monotonic() + timeout
        while self._relay is not None:
            self._relay.read_output()
            if self._relay.ended() is not None:
                self._forget_relay()
            elif time.monotonic() >= end:
                return False
            else:
                time.sleep(_TICK)
        return True

    def close(self) -> None:
        """Close the socket and remove its file; the relay ends by itself."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        if self._relay is not None:
            self._relay.close()

    def after_fork(self) -> None:
        """In a forked child: the relay is the parent's."""
        self._listener = None
        self._forget_relay()

    def _forget_relay(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.close()

    def _died(self, relay: SpawnedRelay, how: str) -> None:
        age = self._clock() - self._born
        at_start = age < _YOUNG or not relay.answered
        last_error_line = "" if relay.answered else relay.last_error_line()
        self._forget_relay()
        self._note_death(
            how + f" ({last_error_line})" * bool(last_error_line), age, at_start=at_start
        )

    def _note_death(self, how: str, age: float, *, at_start: bool) -> None:
        self._deaths_at_start = self._deaths_at_start + 1 if at_start else 0
        if self._deaths_at_start >= _DEATHS_AT_START:
            self._give_up(f"it died at its start {_DEATHS_AT_START} times, {how}")
            return
        self._deaths = 0 if age > _OLD else self._deaths
        pause = _PAUSES[min(self._deaths, len(_PAUSES) - 1)]
        self._deaths += 1
        self._due = self._clock() + pause
        _log.warning(
            "taskobs: the relay died, %s; restarting it %s",
            how,
            f"in {pause:.0f} s" if pause else "at once",
        )
        if not pause:
            self._spawn_again()

    def _spawn_again(self) -> None:
        """Start a relay; a failed start counts as a death at the start."""
        try:
            self._spawn()
        except OSError as error:
            self._note_death(_reason(error), 0.0, at_start=True)

    def _spawn(self) -> None:
        assert self._listener is not None  # noqa: S101  # callers have looked
        assert self._command is not None  # noqa: S101  # ``start`` has set it
        self._born = self._clock()
        self._relay = spawn(
            self._command,
            relay_command.environment(),
            self._configuration,
            self._listener.fileno(),
            self.memory,
        )
        if self.memory is not None:
            self.memory.relay_started(self._relay.pid)

    def _give_up(self, why: str) -> None:
        self._forget_relay()
        if self.memory is not None:
            self.memory.abandon()
        self.close()
        self._warn(why)


def _reason(error: OSError) -> str:
    hint = f" ({_LIMITS})" if error.errno == errno.EAGAIN else ""
    return f"it can't be started: {error}{hint}"


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal {-code}"
