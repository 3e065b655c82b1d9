"""Sentry's envelopes go to the relay, whose own client sends them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport, make_transport

from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.internal.guard import Guard
from taskobs.protocol import envelopes
from taskobs.protocol.frames import FrameKind, pack
from taskobs.protocol.sanitize import UNEXPECTED, sanitize
from taskobs.relay_client.client import RelayClient

OPTIONS: Final = (
    "ca_certs",
    "cert_file",
    "http_proxy",
    "https_proxy",
    "keep_alive",
    "key_file",
    "org_id",
    "proxy_headers",
    "send_client_reports",
    "socket_options",
    "transport_queue_size",
)
"""What a transport of Sentry reads of its client's options, beside the DSN and experiments."""


class RelayTransport(Transport):
    """A Sentry client's way to the relay; Sentry's own transport once the relay is gone for good.

    It has no thread, no queue and no socket of its own. ``options`` are the client's; ``stock``
    makes Sentry's own transport of them.
    """

    def __init__(
        self,
        client: RelayClient,
        options: Mapping[str, Any],
        *,
        stock: Callable[[dict[str, Any]], Transport | None] = make_transport,
        guard: Guard | None = None,
    ) -> None:
        super().__init__(dict(options))
        self._client = client
        self._make_stock = stock
        self._guard = guard or Guard()
        self._stock: Transport | None = None
        forksafe.add(self, ForkStep.EXPORT)
        destination = pack(sanitize({"dsn": str(options["dsn"]), "options": _relevant(options)}))
        self._prefix = envelopes.prefix(destination)
        self._room = envelopes.room(destination)
        client.announce(destination)

    @property
    def unavailable(self) -> bool:
        """Whether there is no relay any more, and ``stock`` sends what it may not have got."""
        return self._client.unavailable

    @property
    def stock(self) -> Transport | None:
        """Sentry's own transport, once it came to that."""
        return self._stock

    def after_fork(self) -> None:
        """In a forked child: leave alone what the parent has started."""
        self._stock = None

    def capture_envelope(self, envelope: Envelope) -> None:
        """Send an envelope; blocks nobody."""
        try:
            if not self._client.unavailable:
                self._client.send(FrameKind.ENVELOPE, self._prefix + self._serialized(envelope))
            elif (stock := self._fallback()) is not None:
                stock.capture_envelope(envelope)
            if self._client.unavailable:
                self._hand_over()
        except UNEXPECTED:
            with self._guard:
                raise

    def flush(self, timeout: float, callback: Any = None) -> None:  # noqa: ANN401  # as Sentry has it
        """Wait at most ``timeout`` seconds until all is with the relay."""
        self._client.settle(timeout)
        if self._client.unavailable:
            self._hand_over()
            if self._stock is not None:
                self._stock.flush(timeout, callback)

    def kill(self) -> None:
        """Stop what Sentry's own transport has started, if it came to that."""
        if self._stock is not None:
            self._stock.kill()

    def is_healthy(self) -> bool:
        """Tell whether more may be sent."""
        return self._stock is None or self._stock.is_healthy()

    def _hand_over(self) -> None:
        """Give Sentry's own transport what the relay, which is gone, may not have got."""
        for payload in self._client.undelivered(FrameKind.ENVELOPE, self._prefix):
            stock = self._fallback()
            if stock is not None:
                stock.capture_envelope(Envelope.deserialize(payload[len(self._prefix) :]))

    def _fallback(self) -> Transport | None:
        if self._stock is None:
            self._stock = self._make_stock({**(self.options or {}), "transport": None})
        return self._stock

    def _serialized(self, envelope: Envelope) -> bytes:
        """Return the envelope's bytes, without its largest items if it is too long for a frame."""
        data = envelope.serialize()
        if len(data) <= self._room:
            return data
        items = sorted(envelope.items, key=lambda item: len(item.get_bytes()))
        while len(data) > self._room and items:
            items.pop()
            data = Envelope(headers=envelope.headers, items=list(items)).serialize()
        return data


def _relevant(options: Mapping[str, Any]) -> dict[str, object]:
    return {name: options[name] for name in OPTIONS if name in options}
