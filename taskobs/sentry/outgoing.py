"""Prepares the envelopes of a client before its transport sends them.

Lone surrogates are replaced, events above Sentry's size limit are cut, and the event of an
exception that a run captures itself is held until it is known whether the run fails by it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from typing import Any, Final, cast

from sentry_sdk.envelope import Envelope, Item, PayloadRef
from sentry_sdk.transport import Transport

from taskobs.observers.sentry import held_events

_log: Final = logging.getLogger("taskobs")
MAX_EVENT: Final = 1_000_000
"""Bytes of one event: Sentry and Bugsink accept 1 MiB, and answer 413 to more."""
_TEXTS: Final = (65_536, 16_384, 4_096, 1_024, 256)
"""Characters that each text of a too large event may have: tried in turn until it fits."""
_OPTIONAL: Final = ("breadcrumbs", "extra", "modules", "threads", "spans", "request", "contexts")
"""Parts that are removed, one after the other, from an event that is still too large."""
_CUT: Final = "..."
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPED: Final = b"\\ud"
"""How JSON escapes half of a surrogate pair begin: a cheap test before all texts are looked at."""
_JSON_ITEMS: Final = frozenset({"event", "transaction", "check_in", "log", "trace_metric", "span"})
_EVENTS: Final = frozenset({"event", "transaction"})


class OutgoingEnvelopes:
    """Wraps the ``capture_envelope`` of transports, until ``remove``."""

    def __init__(self) -> None:
        self._transports: list[Transport] = []
        self._warned = False

    def install(self, transport: Transport | None, *, soon: bool) -> None:
        """Prepare all that a transport is given from now on; ``soon``: see ``held_events.hold``."""
        if transport is None or "capture_envelope" in vars(transport):
            return
        send = transport.capture_envelope

        def capture_envelope(envelope: Envelope) -> None:
            self._prepare(envelope)
            if not held_events.hold(envelope, send, soon=soon):
                send(envelope)

        cast("Any", transport).capture_envelope = capture_envelope
        self._transports.append(transport)

    def remove(self) -> None:
        """Unwrap all transports."""
        for transport in self._transports:
            vars(transport).pop("capture_envelope", None)
        self._transports.clear()

    def _prepare(self, envelope: Envelope) -> None:
        for item in envelope.items:
            if item.type in _JSON_ITEMS and item.payload.json is not None:
                _clean(item)
                self._fit(item)

    def _fit(self, item: Item) -> None:
        size = len(item.get_bytes())
        if size <= MAX_EVENT or item.type not in _EVENTS:
            return
        item.payload = PayloadRef(json=_fitted(cast("dict[str, Any]", item.payload.json)))
        if not self._warned:
            self._warned = True
            _log.warning(
                "taskobs: an event of %d bytes was cut to the %d that Sentry accepts;"
                " further events are cut without a log line",
                *(size, MAX_EVENT),
            )


def _clean(item: Item) -> None:
    """Replace lone surrogates, as in undecodable file names: servers answer 400 or 500 to them."""
    if _ESCAPED in item.get_bytes():
        item.payload = PayloadRef(json=cast("Any", _each_text(item.payload.json, _encodable)))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode() if _SURROGATE.search(text) else text


def _fitted(event: dict[str, Any]) -> dict[str, Any]:
    for longest in _TEXTS:
        event = cast("dict[str, Any]", _each_text(event, _cutter(longest)))
        if _size(event) <= MAX_EVENT:
            return event
    for part in _OPTIONAL:
        event.pop(part, None)
        if _size(event) <= MAX_EVENT:
            break
    return event


def _cutter(longest: int) -> Callable[[str], str]:
    return lambda text: text if len(text) <= longest else text[:longest] + _CUT


def _size(event: dict[str, Any]) -> int:
    return len(json.dumps(event, separators=(",", ":"), default=str))


def _each_text(value: object, change: Callable[[str], str]) -> object:
    """Return JSON data with each text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        table = cast("dict[str, object]", value)
        return {change(key): _each_text(item, change) for key, item in table.items()}
    if isinstance(value, (list, tuple)):
        return [_each_text(item, change) for item in cast("list[object]", value)]
    return value
