"""Sentry's envelopes of this process go to the recording of the test, from any client."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from taskobs.internal.hidden_modules import hidden_modules
from taskobs.internal.wrapping import Patches

with hidden_modules("gevent", "eventlet"):  # Sentry only asks whether they have patched anything
    import sentry_sdk
    from sentry_sdk.client import BaseClient
    from sentry_sdk.envelope import Envelope
    from sentry_sdk.scope import Scope
    from sentry_sdk.transport import Transport

Take = Callable[[bytes], object]


class CollectingTransport(Transport):
    """Gives what a client sends to ``take``; has no thread and no socket."""

    def __init__(self, options: dict[str, Any], take: Take) -> None:
        super().__init__({**options})
        self._take = take

    def capture_envelope(self, envelope: Envelope) -> None:
        """Take an envelope."""
        self._take(envelope.serialize())


@contextmanager
def collecting(take: Take) -> Generator[None]:
    """Give all envelopes of a block to ``take``, also those of clients that are set in it."""
    replaced: list[tuple[BaseClient, Transport | None]] = []
    patches = Patches()

    def use(client: BaseClient | None) -> None:
        # A client without a DSN has no transport, and is active all the same.
        if client is None or not client.is_active():
            return
        stock = client.transport
        if not isinstance(stock, CollectingTransport):
            replaced.append((client, stock))
            client.transport = CollectingTransport(client.options, take)

    def set_client(
        wrapped: Callable[..., object], _: object, args: tuple[Any, ...], named: dict[str, Any]
    ) -> object:
        client = args[0] if args else named.get("client")
        use(client)  # before anybody finds it in the scope
        return wrapped(*args, **named)

    try:
        patches.wrap(Scope, "set_client", set_client)
        use(sentry_sdk.get_client())
        yield
    finally:
        patches.remove()
        for client, stock in replaced:
            client.transport = stock
