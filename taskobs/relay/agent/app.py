"""A relay put together from its parts."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import Final

from taskobs.protocol.shared_memory import SharedMemory
from taskobs.relay.agent.event_loop import Server
from taskobs.relay.agent.ring_reader import Slots
from taskobs.relay.agent.router import Intake
from taskobs.relay.agent.settings import RelaySettings
from taskobs.relay.agent.shutdown import Ending, Worker
from taskobs.relay.agent.wakeup_pipe import Mailbox
from taskobs.relay.counters import Counters
from taskobs.relay.export.otlp import SpanSender, quieten
from taskobs.relay.export.sentry import EnvelopeSender
from taskobs.relay.metrics.exporter import start_metrics
from taskobs.relay.metrics.run_statistics import RunStats
from taskobs.relay.storage.base import KINDS, ItemKind
from taskobs.relay.storage.opening import open_store
from taskobs.relay.tracking.open_spans import Ledger

_LAST_SENDER: Final = 0.5
_LAST_METRICS: Final = 2.0
"""Seconds that the last export of metrics may take."""


class Relay:
    """One worker's relay. ``run`` blocks until the worker has ended and all is out."""

    def __init__(
        self, listener: socket.socket, told: RelaySettings, shared: SharedMemory | None = None
    ) -> None:
        """Open the store.

        Raises:
            ImportError: the exporter of the protocol is not installed.
            ValueError: a variable that the exporter reads has a value that it can't use.
        """
        quieten()
        self._told = told
        self._counters = counters = Counters()
        self._mailbox = Mailbox()
        self._runs = RunStats()
        self._exporter = exporter = {
            "protocol": told.protocol,
            "endpoint": told.endpoint,
            "headers": told.headers,
        }
        self._store = open_store(
            told.spool, told.worker, counters, self._mailbox.released, owner=told.parent
        )
        self._senders = (
            SpanSender(self._store, counters, exporter),
            EnvelopeSender(self._store, counters),
        )
        self._ledger = Ledger(counters, parent=told.parent)
        self._intake = Intake(
            store=self._store,
            ledger=self._ledger,
            counters=counters,
            on_fact=self._runs.take,
            status=self.status,
        )
        self._server = Server(
            listener,
            worker=Worker(told.parent),
            intake=self._intake,
            slots=Slots(shared, intake=self._intake, ledger=self._ledger, counters=counters),
            ledger=self._ledger,
            store=self._store,
            counters=counters,
            mailbox=self._mailbox,
            ending=Ending(told.grace),
        )
        for kind in KINDS:
            counters.gauge("pending", partial(self._waiting, kind), kind)
        counters.gauge("open", lambda: self._ledger.open, "span")
        counters.gauge("clients", lambda: self._ledger.processes)

    def _waiting(self, kind: ItemKind) -> int:
        return self._store.pending(kind).items

    def status(self) -> dict[str, object]:
        """Say what there is to say: whose relay it is, and what it counts."""
        return {"worker": self._told.worker, "pid": os.getpid(), **self._counters.snapshot()}

    def terminate(self) -> None:
        """End soon; see ``Server.terminate``."""
        self._server.terminate()

    def run(self) -> None:
        """Serve until the worker has ended and all is out, or given up."""
        self._intake.restore()
        for sender in self._senders:
            sender.start()
        metrics = start_metrics(
            self._counters, self._runs, self._exporter, lambda: self._ledger.about
        )
        self._server.run()
        for sender in self._senders:
            sender.stop(0.0)
        if metrics is not None:
            metrics.stop(_LAST_METRICS)
        self._store.close()
        for sender in self._senders:
            sender.join(_LAST_SENDER)
        self._mailbox.close()
