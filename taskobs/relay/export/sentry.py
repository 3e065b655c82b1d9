"""Envelopes out of the store, through Sentry's stock transport.

Sentry's own way of sending drops what it can't send at once; so its transport is asked to make
the request, and its answer is judged here.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final, cast

from taskobs.protocol import frames
from taskobs.relay.counters import Counters
from taskobs.relay.export.responses import ExportResult, ExportStatus, of_error, of_status, seconds
from taskobs.relay.export.sender import MALFORMED, Limits, Sender
from taskobs.relay.storage.base import ItemKind, Store, Stored

CLIENTS: Final = 8
"""Transports that are kept open; of more clients, those least in use have theirs made anew."""
TIMEOUT: Final = 10.0
_KEPT_OUT: Final = ("gevent", "eventlet", "greenlet", "httpcore", "h2", "anyio")
"""What ``sentry_sdk`` imports where it is installed: 20 MB that this process has no use for."""
_LEVEL: Final = 6
_LIMITED: Final = "rate limited by Sentry"
_WAITED_FOR: Final = 60.0
"""Seconds of a limit that are waited for; a longer one is a quota, and what is beyond is dropped
as Sentry asks."""
_TOO_MANY: Final = 429
_TRIES: Final = 5
"""A server that fails on one envelope may fail on it for ever, while the next ones wait."""
_ERROR: Final = "error"
_CATEGORIES: Final = {
    "event": _ERROR,
    "check_in": "monitor",
    "sessions": "session",
    "log": "log_item",
    "client_report": "internal",
}
"""Sentry's categories, where they are not called as the type of the item."""


class EnvelopeSender(Sender):
    """Sends envelopes, one at a time, each to the Sentry of its client."""

    kind: ClassVar[ItemKind] = "envelope"
    limits: ClassVar[Limits] = Limits(items=1, bytes=1, max_delay=0.0)

    def __init__(self, store: Store, counters: Counters) -> None:
        super().__init__(store, counters)
        self._posters: OrderedDict[bytes, SentryPoster] = OrderedDict()

    def _send(self, batch: Sequence[Stored]) -> ExportResult:
        item = batch[0].item
        try:
            post = self._poster(item.resource_blob)
        except Exception as error:  # noqa: BLE001  # whatever Sentry thinks of a DSN and options
            return ExportResult(ExportStatus.DROP, MALFORMED, type(error).__name__)
        return post.send(item.payload)

    def _poster(self, resource_blob: bytes) -> SentryPoster:
        post = self._posters.get(resource_blob)
        if post is None:
            client: Any = frames.unpack(resource_blob)
            post = self._posters[resource_blob] = SentryPoster(client["dsn"], client["options"])
            if len(self._posters) > CLIENTS:
                self._posters.popitem(last=False)[1].close()
        self._posters.move_to_end(resource_blob)
        return post

    def _shut(self) -> None:
        for post in self._posters.values():
            post.close()


class SentryPoster:
    """Sends to one Sentry. Not thread-safe."""

    def __init__(self, dsn: str, options: Mapping[str, object]) -> None:
        """Raises what Sentry does for a DSN or options that can't be used."""
        self._transport = _transport(dsn, options)
        self._limits: dict[str, float] = {}
        """Until when, on the monotonic clock, by category; "" for all."""

    def send(self, envelope: bytes) -> ExportResult:
        """Send once."""
        limited = self._limited(envelope)
        if limited is not None:
            return limited
        headers = {
            "Content-Type": "application/x-sentry-envelope",
            "Content-Encoding": "gzip",
        }
        body = gzip.compress(envelope, _LEVEL)
        try:
            answered: tuple[int, Mapping[str, str]] | None = self._transport.post(body, headers)
        except Exception as error:  # noqa: BLE001  # urllib3's, and whatever is below it
            return of_error(error)
        return (
            self._judge(envelope, *answered)
            if answered
            else ExportResult(ExportStatus.RETRY, "no answer")
        )

    def close(self) -> None:
        """Close its connections."""
        self._transport.shut()

    def _judge(self, envelope: bytes, status: int, headers: Mapping[str, str]) -> ExportResult:
        limits, retry_after = headers.get("X-Sentry-Rate-Limits"), headers.get("Retry-After")
        if limits:
            self._limits.update(_read_limits(limits))
        elif status == _TOO_MANY:
            wait = seconds(retry_after)
            self._limits[""] = time.monotonic() + (_WAITED_FOR if wait is None else wait)
        result = of_status(status, retry_after)
        if status == _TOO_MANY:
            return self._limited(envelope) or result
        if result.status is ExportStatus.DROP and status >= 500:  # noqa: PLR2004  # the server's fault
            return result._replace(status=ExportStatus.RETRY, tries=_TRIES)
        return result

    def _limited(self, envelope: bytes) -> ExportResult | None:
        """Tell what a limit means: wait, or drop it; errors don't wait for a limit of others."""
        now, category = time.monotonic(), _category(envelope)
        of_all, of_it = (self._limits.get(one, 0.0) - now for one in ("", category))
        wait = max(of_all, of_it)
        if wait <= 0:
            return None
        if wait > _WAITED_FOR or (of_all <= 0 and category != _ERROR):
            return ExportResult(ExportStatus.DROP, _LIMITED, f"for {wait:.0f} s more")
        return ExportResult(ExportStatus.RETRY, _LIMITED, wait=wait)


def _read_limits(header: str) -> dict[str, float]:
    """Read ``60:error;transaction:key, 2700:default:organization``."""
    now, limits = time.monotonic(), dict[str, float]()
    for limit in header.split(","):
        after, _, rest = limit.strip().partition(":")
        wait = seconds(after)
        if wait is not None:
            categories = rest.partition(":")[0].split(";")
            limits.update(dict.fromkeys((one.strip() for one in categories), now + wait))
    return limits


def _category(envelope: bytes) -> str:
    """Return what Sentry counts an envelope as: its first item."""
    try:
        kind = str(json.loads(envelope.split(b"\n", 2)[1])["type"])
    except (ValueError, LookupError, TypeError):
        return "default"
    return _CATEGORIES.get(kind, kind)


def _transport(dsn: str, options: Mapping[str, object]) -> Any:  # noqa: ANN401  # a class made here
    """Return a stock transport that keeps what Sentry answers."""
    with _kept_out():
        from sentry_sdk.consts import DEFAULT_OPTIONS, EndpointType
        from sentry_sdk.transport import HttpTransport

    class Stock(HttpTransport):
        TIMEOUT: Any = TIMEOUT

        def __init__(self, options: dict[str, Any]) -> None:
            self.answered: tuple[int, Mapping[str, str]] | None = None
            super().__init__(options)

        def _request(self, *call: Any, **named: Any) -> Any:  # noqa: ANN401  # of any release
            response = cast("Any", super()._request(*call, **named))
            self.answered = (response.status, response.headers)
            return response

        def post(
            self, body: bytes, headers: dict[str, str]
        ) -> tuple[int, Mapping[str, str]] | None:
            """Make the request, here and now."""
            self.answered = None
            self._send_request(body, headers=headers, endpoint_type=EndpointType.ENVELOPE)
            return self.answered

        def shut(self) -> None:
            """Close the connections; there is no thread."""
            cast("Any", self._pool).clear()

    known = {name: value for name, value in options.items() if name in DEFAULT_OPTIONS}
    # What Sentry would report of its own drops is counted here, and tried again first.
    ours = {"dsn": dsn, "send_client_reports": False}
    return Stock({**DEFAULT_OPTIONS, **known, **ours})


@contextmanager
def _kept_out() -> Generator[None]:
    """Have imports of what is large and of no use here fail: Sentry does without."""
    hidden_modules = [name for name in _KEPT_OUT if name not in sys.modules]
    for name in hidden_modules:
        sys.modules[name] = cast("Any", None)  # what makes an import fail
    try:
        yield
    finally:
        for name in hidden_modules:
            del sys.modules[name]
