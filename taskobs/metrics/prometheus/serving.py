"""Serves the metrics of one worker at ``/metrics``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from threading import Event, Thread
from typing import Final

from taskobs.errors import MissingExtraError
from taskobs.metrics.families import Family
from taskobs.metrics.prometheus.exposition import render, require_extra
from taskobs.metrics.prometheus.server import Page, PageServer, ServeError

_log: Final = logging.getLogger("taskobs")
_PATH: Final = "/metrics"
_PAUSE: Final = 5.0
"""Seconds after which a port that is taken is tried again: its holder may have been stopping."""


class MetricsServer:
    """Serves metrics from ``start`` to ``close``. Both are called once.

    ``families`` is called for each scrape, on any thread. ``port`` 0 is any free port: the
    ``earlier`` one if that is free, 0 for none.
    """

    def __init__(
        self,
        families: Callable[[], Iterable[Family]],
        *,
        address: str,
        port: int,
        earlier: int = 0,
    ) -> None:
        self._families = families
        self._address, self._port = address, port
        self._earlier = 0 if port else earlier
        self._server: PageServer | None = None
        self._closed = Event()

    def start(self) -> None:
        """Serve, as soon as the port is free; one line in the log says where, or why not yet."""
        try:
            require_extra("metrics_port")
            self._open()
        except MissingExtraError as error:
            _log.warning("taskobs: no metrics for Prometheus: %s", error)
        except ServeError as error:
            _log.warning("taskobs: no metrics for Prometheus: %s; trying again", error)
            Thread(target=self._try_again, name="taskobs-metrics-port", daemon=True).start()

    @property
    def port(self) -> int:
        """The port that it serves at; 0 if it doesn't."""
        return 0 if self._server is None else self._server.port

    @property
    def url(self) -> str:
        """Where metrics are served; empty if they are not."""
        return "" if self._server is None else f"{self._server.url}{_PATH}"

    def close(self) -> None:
        """Serve no more."""
        self._closed.set()
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def abandon(self) -> None:
        """In a forked child: close the socket; the parent goes on serving."""
        server, self._server = self._server, None
        if server is not None:
            server.abandon()

    def _open(self) -> None:
        try:
            self._listen(self._earlier or self._port)
        except ServeError:
            if not self._earlier:
                raise
            self._listen(self._port)
        if self.port != self._earlier:
            _log.info("taskobs: metrics for Prometheus at %s", self.url)

    def _listen(self, port: int) -> None:
        server = PageServer({_PATH: self._page}, address=self._address, port=port)
        server.start()
        self._server = server

    def _page(self, accept: str) -> Page:
        return Page(*render(self._families(), accept))

    def _try_again(self) -> None:
        while not self._closed.wait(_PAUSE):
            try:
                self._open()
            except ServeError:
                continue
            if self._closed.is_set():  # meanwhile
                self.close()
            return
