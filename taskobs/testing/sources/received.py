"""What workers in other processes send, to a receiver that a test has asked for."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final

from taskobs.testing.reading import trace_of
from taskobs.testing.receiver import Receiver
from taskobs.testing.recording import Recording

_OF_WORKER: Final = {
    "OTEL_BSP_SCHEDULE_DELAY": "100",  # milliseconds: a test waits for it
    "OTEL_TRACES_SAMPLER": "always_on",
    "TASKOBS_ENABLED": "1",
    "TASKOBS_LOGS": "otlp",
}


class _Receiver(Receiver):
    """Hands on what it receives, and keeps nothing."""

    def __init__(self, received: ReceivedTelemetry, host: str) -> None:
        self._received = received
        self._one_at_a_time = threading.Lock()
        super().__init__(host=host)

    def take(self, path: str, body: bytes) -> None:
        """Hand on the contents of an accepted body; raises `wire.MalformedError`."""
        with self._one_at_a_time:
            super().take(path, body)
            self._received.give(self)
            self.clear()


class ReceivedTelemetry:
    """Gives a test what is received until the end of its block ``to``.

    The receiver goes on to the next test, as its worker may: that has its address for as long as
    it runs. What belongs to a trace of an earlier test is left out.
    """

    def __init__(self) -> None:
        self._receiver: _Receiver | None = None
        self._recording: Recording | None = None
        self._earlier: set[str] = set()

    @property
    def in_use(self) -> bool:
        """Whether a test has asked for the receiver."""
        return self._receiver is not None

    def environment(self, host: str) -> Mapping[str, str]:
        """Return variables for a worker; the first call starts the receiver.

        Raises:
            ValueError: it listens on another address already.
        """
        found = self._receiver = self._receiver or _Receiver(self, host)
        if found.host != host:
            raise ValueError(f"the receiver of these tests listens on {found.host}, not on {host}")
        where = {"OTEL_EXPORTER_OTLP_ENDPOINT": found.endpoint, "SENTRY_DSN": found.dsn}
        return {**where, "NO_PROXY": host, **_OF_WORKER}

    def give(self, receiver: Receiver) -> None:
        """Give the test that runs what the receiver has; without one, nobody gets it."""
        recording = self._recording
        if recording is not None:
            recording.take_received(
                spans=[one for one in receiver.spans if one.trace_id not in self._earlier],
                events=[one for one in receiver.events if trace_of(one) not in self._earlier],
                logs=[one for one in receiver.logs if one.trace_id not in self._earlier],
            )

    @contextmanager
    def to(self, recording: Recording) -> Generator[None]:
        """Give what is received in a block to a recording."""
        self._recording = recording
        try:
            yield
        finally:
            self._recording = None
            if self._receiver is not None:
                self._earlier |= {one.trace_id for one in recording.spans}

    def close(self) -> None:
        """Stop the receiver."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.close()
