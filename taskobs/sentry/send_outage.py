"""Outages of Sentry take two lines in the log of a process that sends its own events.

Sentry's transport drops an envelope that it can't send and logs nothing; urllib3 logs three
attempts for each. It makes no difference whether the client is ours or the app's.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from sentry_sdk.transport import HttpTransport, Transport

from taskobs.internal.causes import describe, innermost
from taskobs.internal.outage import LibraryLog, Outage
from taskobs.internal.wrapping import Patches
from taskobs.observers.own_traffic import suppressed
from taskobs.sentry import _compat

_log: Final = logging.getLogger("taskobs")
_LOGGERS: Final = ("urllib3.connectionpool",)
_INSTRUMENTATION: Final = "opentelemetry.instrumentation.utils"
_SERVER_ERROR: Final = 500
_REPORTS: Final = frozenset({"client_report"})
"""Items that only say what was lost."""


class SendOutages:
    """Watches what Sentry's own transports send, from ``install`` to ``remove``."""

    def __init__(self) -> None:
        self._patches = Patches()
        self._library_log: LibraryLog | None = None
        self._outages: WeakKeyDictionary[Transport, Outage] = WeakKeyDictionary()

    def install(self) -> None:
        """Start watching."""
        self._library_log = LibraryLog(_LOGGERS, _ignore)
        _compat.watch_requests(self._patches, self._request)
        self._patches.wrap(HttpTransport, "record_lost_event", self._lost)

    def remove(self) -> None:
        """Stop watching, and log what was lost."""
        self._patches.remove()
        if self._library_log is not None:
            self._library_log.close()
        for outage in list(self._outages.values()):
            outage.closed()
        self._outages.clear()

    def after_fork(self) -> None:
        """In a forked child: what the parent has lost is not this process's."""
        self._outages = WeakKeyDictionary()

    def _request(
        self,
        request: Callable[..., Any],
        transport: Transport,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:  # noqa: ANN401  # a response of urllib3's, or of httpcore's
        # Where the app instruments urllib3, each envelope would be a span, in the run that was
        # current when Sentry's thread was started. Where nothing is instrumented, the module that
        # says so is not imported here: a fork could find its lock taken by Sentry's thread.
        if _INSTRUMENTATION not in sys.modules:
            return self._watched(request, transport, args, kwargs)
        with suppressed():
            return self._watched(request, transport, args, kwargs)

    def _watched(
        self,
        request: Callable[..., Any],
        transport: Transport,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:  # noqa: ANN401  # as above
        outage = self._outage_of(transport)
        if outage is None or self._library_log is None:
            return request(*args, **kwargs)
        try:
            with self._library_log:
                response = request(*args, **kwargs)
        except Exception as error:
            outage.began(describe(innermost(error)))
            raise
        if response.status >= _SERVER_ERROR:
            outage.began(f"HTTP {response.status}")
        else:
            outage.ended()
        return response

    def _lost(
        self,
        record: Callable[..., Any],
        transport: Transport,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:  # noqa: ANN401  # as Sentry has it
        item, outage = kwargs.get("item"), self._outages.get(transport)
        if outage is not None and outage.reason and item is not None and item.type not in _REPORTS:
            outage.lost(1)
        return record(*args, **kwargs)

    def _outage_of(self, transport: Transport) -> Outage | None:
        found = self._outages.get(transport)
        if found is None and transport.parsed_dsn is not None:
            address = transport.parsed_dsn.netloc
            found = Outage(_log, f"taskobs: sending events to Sentry at {address}")
            self._outages[transport] = found
        return found


def _ignore(_: str) -> None: ...
