"""All metrics of one worker: the snapshot of its main process, and what its relay counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from opentelemetry.sdk.resources import Resource

from taskobs.metrics.families import Family
from taskobs.metrics.snapshot import Snapshot, unpack_snapshot
from taskobs.protocol.span_decoder import SpanDecoder
from taskobs.relay.counters import Counters
from taskobs.relay.metrics.relay_families import relay_families

_log: Final = logging.getLogger("taskobs.relay")


class Collected(NamedTuple):
    """Metrics at one moment."""

    groups: list[tuple[int, list[Family]]]
    """Families, with the nanosecond of the epoch since which they were counted."""
    resource: Resource | None
    """The worker's; None as long as it is not known."""
    of_worker: Sequence[Family] = ()
    """Those of the families that outlive a relay."""

    @property
    def families(self) -> list[Family]:
        """All of them."""
        return [family for _, families in self.groups for family in families]


class LatestSnapshot:
    """The latest of the snapshots that a worker has sent. Any thread may ``read``."""

    def __init__(self) -> None:
        self._payload: bytes | None = None
        self._read: tuple[bytes, Snapshot] | None = None

    def take(self, payload: bytes) -> None:
        """Keep a snapshot; it is read when somebody wants to see it."""
        self._payload = payload

    def read(self) -> Snapshot | None:
        """Return the latest that can be read."""
        payload, read = self._payload, self._read
        if payload is None:
            return None
        if read is None or read[0] is not payload:
            try:
                read = self._read = payload, unpack_snapshot(payload)
            except ValueError as error:
                _log.warning("taskobs relay: the worker's metrics can't be read: %s", error)
                self._payload = None if read is None else read[0]
        return None if read is None else read[1]


class WorkerMetrics:
    """Keeps the latest snapshot of the worker's main process. Any thread may ``collect``.

    ``resource_blob`` returns the packed resource of the worker, for one that sends no snapshots.
    """

    def __init__(self, counters: Counters, resource_blob: Callable[[], bytes | None]) -> None:
        self._counters = counters
        self._resource_blob = resource_blob
        self._latest = LatestSnapshot()

    def take(self, snapshot: bytes) -> None:
        """Keep a packed snapshot; it is read when somebody wants to see it."""
        self._latest.take(snapshot)

    def collect(self) -> Collected:
        """Return what is known now."""
        counters, snapshot = self._counters, self._latest.read()
        groups = [(int(counters.since * 1e9), [*relay_families(counters)])]
        if snapshot is None:
            blob = self._resource_blob()
            return Collected(groups, None if blob is None else SpanDecoder().resource(blob))
        resource = Resource(snapshot.resource, snapshot.schema_url)
        found = [*snapshot.families]
        return Collected([(snapshot.since, found), *groups], resource, found)
