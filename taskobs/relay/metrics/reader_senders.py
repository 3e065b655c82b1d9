"""Exports what is counted for the app's own metric readers, as each of them would."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, cast

from opentelemetry.sdk.resources import Resource

from taskobs.metrics import metrics_frames
from taskobs.protocol.frames import FrameError, unpack
from taskobs.relay.export.responses import ExportResult, ExportStatus
from taskobs.relay.metrics.accepted import AcceptedSums
from taskobs.relay.metrics.collected import Collected, LatestSnapshot
from taskobs.relay.metrics.exporter import RELAY, Cadence, MetricsSender

_log: Final = logging.getLogger("taskobs.relay")


class ReaderSenders:
    """Has a sender for each reader that METRICS payloads come for, from the first of them on.

    Not thread-safe. ``around`` and ``who`` are as ``MetricsSender`` has them.
    """

    def __init__(
        self,
        accepted: AcceptedSums | None = None,
        who: str = RELAY,
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._accepted, self._who, self._around = accepted, who, around
        self._latest: dict[int, LatestSnapshot] = {}
        self._senders: dict[int, ReaderSender] = {}

    def take(self, number: int, rest: bytes) -> None:
        """Take a payload of a reader, without its number; it is read when it is exported.

        Raises:
            FrameError: it is malformed.
        """
        settings, snapshot = metrics_frames.settings_and_snapshot(rest)
        latest = self._latest.get(number)
        if latest is None:
            latest = self._latest[number] = LatestSnapshot()
            self._start(number, settings, latest)
        latest.take(snapshot)

    def _start(self, number: int, settings: bytes, latest: LatestSnapshot) -> None:
        accepted = None if self._accepted is None else self._accepted.of(number)
        try:
            exporter, cadence = _read(settings)
            sender = ReaderSender(
                lambda: _collected(latest), exporter, self._who, accepted, self._around, cadence
            )
            sender.start()
        # Whatever an exporter may raise for settings of its own, or RuntimeError at a limit of
        # threads.
        except Exception as error:  # noqa: BLE001
            _log.warning(
                "%s: metrics of one of the app's readers can't be sent: %s",
                *(self._who, type(error).__name__),
            )
        else:
            self._senders[number] = sender

    @property
    def sends(self) -> list[Callable[[], object]]:
        """The calls that send once, now; each may block."""
        return [sender.send for sender in self._senders.values()]

    def stop(self, timeout: float) -> None:
        """Send a last time, all at the same time; wait at most ``timeout`` seconds for all."""
        end = time.monotonic() + timeout
        for sender in self._senders.values():
            sender.stop(0.0)
        for sender in self._senders.values():
            sender.stop(max(0.0, end - time.monotonic()))
        self._senders.clear()


class ReaderSender(MetricsSender):
    """Sends at the interval of one reader.

    As that would, it goes on after it was refused; one line says so, and another when it is over.
    """

    _failing = False

    def _judge(self, result: ExportResult | None) -> None:
        accepted = result is not None and result.status is ExportStatus.SUCCESS
        if accepted and self._failing:
            _log.info("%s: metrics of the app's reader are accepted again", self._who)
        elif not accepted and not self._failing:
            why = result.text if result else "the exporter sent nothing"
            _log.warning("%s: metrics of the app's reader are not accepted: %s", self._who, why)
        self._failing = not accepted


def _collected(latest: LatestSnapshot) -> Collected:
    snapshot = latest.read()
    if snapshot is None or not snapshot.families:
        return Collected([], None)
    families = [*snapshot.families]
    resource = Resource(snapshot.resource, snapshot.schema_url)
    return Collected([(snapshot.since, families)], resource, families)


def _read(settings: bytes) -> tuple[Mapping[str, Any], Cadence]:
    match unpack(settings):
        case {"exporter": dict(), "interval": float(interval), "delta": bool(delta)} as found:
            exporter = cast("Mapping[str, Mapping[str, Any]]", found)["exporter"]
            return exporter, Cadence(interval, delta=delta)
        case _:
            raise FrameError("no settings of a reader")
