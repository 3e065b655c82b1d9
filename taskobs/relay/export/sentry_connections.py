"""Connections to a Sentry server, as the options of its client and the environment ask for.

The options mean what they mean to ``sentry_sdk``'s own transport (read in 2.75.0), and are only
those that Sentry documents.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast
from urllib.parse import unquote
from urllib.request import getproxies

import certifi
import urllib3
from urllib3.util.url import parse_url

from taskobs.relay.export.sentry_dsn import Dsn

_log = logging.getLogger("taskobs.relay")
NO_RETRIES: Final = urllib3.Retry(
    total=None, connect=0, read=0, status=0, other=0, redirect=3, raise_on_redirect=False
)
"""Pass it with each request, as urllib3 1.26 does not keep a pool's own for redirects."""
_KEEP_ALIVE: Final = (
    ("SOL_SOCKET", "SO_KEEPALIVE", 1),
    ("SOL_TCP", "TCP_KEEPIDLE", 45),
    ("SOL_TCP", "TCP_KEEPINTVL", 10),
    ("SOL_TCP", "TCP_KEEPCNT", 6),
)
"""What ``keep_alive`` sets; the last three are not on all platforms."""

SocketOption = tuple[int, int, "int | bytes"]


def connect(
    dsn: Dsn, options: Mapping[str, Any], *, timeout: float, connections: int
) -> urllib3.PoolManager:
    """Return a pool of at most ``connections`` open connections, none of them made yet.

    Thread-safe. Raises what urllib3 does for a proxy's address that it can't read.
    """
    shared: dict[str, Any] = {
        "cert_reqs": "CERT_REQUIRED",
        "ca_certs": _file(options, "ca_certs", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
        or certifi.where(),
        "cert_file": _file(options, "cert_file", "CLIENT_CERT_FILE"),
        "key_file": _file(options, "key_file", "CLIENT_KEY_FILE"),
        "timeout": urllib3.Timeout(total=timeout),
        "maxsize": connections,
    }
    chosen = _socket_options(options)
    if chosen is not None:
        shared["socket_options"] = chosen
    proxy = proxy_of(dsn, options)
    return _proxied(proxy, options, shared) if proxy else urllib3.PoolManager(**shared)


def proxy_of(dsn: Dsn, options: Mapping[str, Any]) -> str | None:
    """Return the address of the proxy to use; None for a direct connection.

    An option that is an empty string means none; one that is not set, the environment's, unless
    ``no_proxy`` names the host.
    """
    environment = {} if _is_excluded(dsn) else getproxies()
    for scheme in ("https", "http") if dsn.scheme == "https" else ("http",):
        given = options.get(f"{scheme}_proxy")
        found = given if given is not None else environment.get(scheme)
        if found:
            return str(found)
    return None


def _is_excluded(dsn: Dsn) -> bool:
    names = (name.strip() for name in getproxies().get("no", "").split(","))
    return any(
        name == "*" or dsn.host.endswith(name) or dsn.address.endswith(name)
        for name in names
        if name
    )


def _proxied(proxy: str, options: Mapping[str, Any], shared: dict[str, Any]) -> urllib3.PoolManager:
    if proxy.startswith("socks"):
        return _through_socks(proxy, shared)
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    given: Mapping[object, object] = options.get("proxy_headers") or {}
    headers = {str(name): str(value) for name, value in given.items()}
    # urllib3 leaves a name and password in the proxy's address alone.
    login = parse_url(proxy).auth
    if login and "proxy-authorization" not in map(str.lower, headers):
        headers |= urllib3.make_headers(proxy_basic_auth=unquote(login))
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **shared)


def _through_socks(proxy: str, shared: dict[str, Any]) -> urllib3.PoolManager:
    try:
        from urllib3.contrib.socks import SOCKSProxyManager
    except ImportError:
        _log.warning(
            "taskobs relay: Sentry's proxy is a SOCKS proxy, and PySocks is not installed: "
            "events are sent without a proxy. To use it: pip install PySocks"
        )
        return urllib3.PoolManager(**shared)
    return cast("urllib3.PoolManager", SOCKSProxyManager(proxy, **shared))


def _file(options: Mapping[str, Any], option: str, *variables: str) -> str | None:
    names = (options.get(option), *map(os.environ.get, variables))
    return next((str(name) for name in names if name), None)


def _socket_options(options: Mapping[str, Any]) -> list[SocketOption] | None:
    """Return what to set on each socket; None for urllib3's defaults."""
    given: Sequence[Sequence[Any]] | None = options.get("socket_options")
    chosen = None if given is None else [cast("SocketOption", tuple(one)) for one in given]
    if options.get("keep_alive"):
        chosen = chosen or []
        taken = {(level, name) for level, name, _ in chosen}
        for level, name, value in _KEEP_ALIVE:
            key = (getattr(socket, level, None), getattr(socket, name, None))
            if None not in key and key not in taken:
                chosen.append((*cast("tuple[int, int]", key), value))
    return chosen
