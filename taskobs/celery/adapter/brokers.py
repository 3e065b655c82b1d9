"""Which broker a message goes to or comes from: its kind, address and port, never how to log in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from weakref import ref

from taskobs.model.messages import NOWHERE, Broker

if TYPE_CHECKING:
    from taskobs.celery._types import App

# As OpenTelemetry's messaging conventions name them; others are called what kombu calls them.
# https://opentelemetry.io/docs/specs/semconv/registry/attributes/messaging/
_SYSTEMS: Final = {
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "pyamqp": "rabbitmq",
    "librabbitmq": "rabbitmq",
    "azureservicebus": "servicebus",
    "confluentkafka": "kafka",
    "gcpubsub": "gcp_pubsub",
    "sqs": "aws_sqs",
}
_NO_SERVER: Final = frozenset({"filesystem", "memory"})
# kombu gives `localhost` for each transport whose URL names no host: for these it is not the host.
_NO_DEFAULT_HOST: Final = frozenset(
    {*_NO_SERVER, "aws_sqs", "azurestoragequeues", "gcp_pubsub", "servicebus", "slmq"}
)
_UNNAMED: Final = "N/A"
"""What a transport of kombu's says that does not say which driver it has."""
_MOST: Final = 100
_ADDRESS_CHARS: Final = 255

_of_connections: Final[dict[tuple[object, ...], Broker]] = {}


class _AppBrokers:
    def __init__(self, app: ref[Any], write: Broker, *, varies: bool) -> None:
        self.app = app
        self.write = write
        self.read: Broker | None = None
        """Looked up in workers alone."""
        self.varies = varies


_of_apps: Final[dict[int, _AppBrokers]] = {}


def published_to(app: App) -> Broker:
    """Return where an app publishes by default; no connection is opened."""
    found = _of_apps.get(id(app))
    if found is None or found.app() is not app:
        found = _of_app(app)
    return found.write


def varies(app: App) -> bool:
    """Whether only a connection tells where an app publishes: with several brokers, or Sentinel."""
    found = _of_apps.get(id(app))
    if found is None or found.app() is not app:
        found = _of_app(app)
    return found.varies


def consumed_from(app: App) -> Broker:
    """Return where workers of an app consume from by default; no connection is opened."""
    brokers = _of_app(app)
    if brokers.read is None:
        brokers.read, _ = _first(app, "connection_for_read")
    return brokers.read


def of_connection(connection: Any) -> Broker:
    """Return the broker that a connection of kombu's is to.

    With a list of brokers to fail over to, it is the one that the connection was last opened to, or
    will be next.
    """
    key = connection.transport_cls, connection.hostname, connection.port, bool(connection.ssl)
    found = _of_connections.get(key)
    if found is None:
        if len(_of_connections) >= _MOST:
            _of_connections.clear()
        described = _describe(connection)
        # One object for equal ones: whoever compares two can do so by identity.
        found = next((one for one in _of_connections.values() if one == described), described)
        _of_connections[key] = found
    return found


def sent_over(sender: Any, *, published: bool) -> Broker:
    """Return the broker to which a producer of kombu's, or what has its ``connection``, publishes.

    Unless it has ``published`` already, no channel is looked at: that would open it.
    """
    connection = sender.connection
    if not published or not asks_sentinel(connection):
        return of_connection(connection)
    channel = getattr(sender, "channel", None) or connection.default_channel
    return _master(channel.pool) or of_connection(connection)


def received_over(channel: Any) -> Broker:
    """Return the broker from which a channel of kombu's consumes."""
    connection = channel.connection.client
    master = _master(channel.async_pool) if asks_sentinel(connection) else None
    return master or of_connection(connection)


def asks_sentinel(connection: Any) -> bool:
    """Whether a connection asks Redis Sentinel which server is the master.

    The master can be another one at any time, so it is to be looked up for each message.
    """
    return bool(connection.transport_cls == "sentinel")


def _master(pool: Any) -> Broker | None:
    """Return the master that a pool of redis-py has found; None before its first connection."""
    try:
        host, port = pool.master_address
    except (AttributeError, TypeError, ValueError):
        return None
    return _of_master(host, port)


@lru_cache(maxsize=_MOST)
def _of_master(host: object, port: object) -> Broker | None:
    if not isinstance(host, str) or not isinstance(port, int):
        return None
    return Broker(system="redis", address=host[:_ADDRESS_CHARS], port=port)


def as_text(broker: Broker) -> str:
    """Write a broker as a header that `from_text` reads."""
    return f"{broker.system} {broker.port} {broker.address}"


@lru_cache(maxsize=_MOST)
def from_text(text: str) -> Broker:
    """Read what `as_text` has written."""
    system, port, address = [*text.split(" ", 2), "", ""][:3]
    return Broker(system=system, address=address, port=int(port)) if port.isdecimal() else NOWHERE


def _of_app(app: App) -> _AppBrokers:
    """Look up where an app publishes once: it takes longer than a publish."""
    found = _of_apps.get(id(app))
    if found is None or found.app() is not app:
        write, may_vary = _first(app, "connection_for_write")
        found = _AppBrokers(ref(app, partial(_forget, id(app))), write, varies=may_vary)
        _of_apps[id(app)] = found
    return found


def _first(app: App, method: str) -> tuple[Broker, bool]:
    """Return the first broker of an app, and whether it may publish to others."""
    try:
        with getattr(app, method)() as connection:
            several = len(connection.alt or ()) > 1
            return of_connection(connection), several or asks_sentinel(connection)
    except Exception:  # noqa: BLE001  # a URL that kombu refuses too: the publish will say so
        return NOWHERE, False


def _forget(number: int, dead: object) -> None:
    found = _of_apps.get(number)
    if found is not None and found.app is dead:  # not of a later app at the same address
        del _of_apps[number]


def _describe(connection: Any) -> Broker:
    """Describe a connection; what can't be worked out is left out alone."""
    named = connection.transport_cls
    defaults: Mapping[str, Any] = {}
    with suppress(Exception):  # a transport whose library is not installed, or of the app's own
        transport = connection.transport
        driver = transport.driver_type
        named = driver if driver and driver != _UNNAMED else named
        defaults = transport.default_connection_params
    named = str(named).rpartition(":")[2].lower() if isinstance(named, str) else ""
    system = _SYSTEMS.get(named, named)
    host = connection.hostname
    if not host and system not in _NO_DEFAULT_HOST:
        host = defaults.get("hostname")
    address, port = _address(str(host or ""), system)
    if address and not port and not address.startswith("/"):
        with suppress(ValueError, TypeError):
            port = int(connection.port or defaults.get("port") or 0)
    return Broker(system=system, address=address, port=port)


def _address(host: str, system: str) -> tuple[str, int]:
    """Return the host and port, or the path of a socket, of what a transport calls its host.

    Transports such as ``sqla+postgresql`` have all of the URL there, the password too.
    """
    if system in _NO_SERVER or system == "gcp_pubsub":  # the URL of that names a project
        return "", 0
    if "://" not in host:
        return ("" if "@" in host or "/" in host else host[:_ADDRESS_CHARS]), 0
    try:
        parts = urlsplit(host)
        if parts.scheme == "socket":
            return parts.path[:_ADDRESS_CHARS], 0
        return (parts.hostname or "")[:_ADDRESS_CHARS], parts.port or 0
    except ValueError:  # such as a `[` in a password
        return "", 0
