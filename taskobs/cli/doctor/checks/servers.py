"""Checks of what the servers of telemetry have said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from taskobs.cli.doctor.checks.responses import worst
from taskobs.cli.doctor.evidence import Evidence
from taskobs.cli.doctor.finding import Finding, ok, unknown, warning

_APART: Final = 5.0
"""Seconds: smaller differences are those of a server's busy machine, and of whole seconds."""
_LOCAL: Final = ("localhost", "127.", "::1", "host.docker.internal")


def traces(evidence: Evidence) -> Finding:
    """Look whether a span was accepted."""
    if not evidence.spans:
        return ok("no spans are sent")
    otherwise = "spans go where the app's TracerProvider sends them, and that can't be asked"
    return worst(evidence.said("traces"), proxied(evidence), otherwise)


def metrics(evidence: Evidence) -> Finding:
    """Look whether metrics are accepted."""
    found = evidence.settings
    if found is None or not found.metrics:
        return ok("no metrics are sent")
    if found.metrics_endpoint is None:
        return ok(f"metrics are served to Prometheus at port {found.metrics_port or 'any'}")
    return worst(evidence.said("metrics"), proxied(evidence), "the server was not asked")


def logs(evidence: Evidence) -> Finding:
    """Look whether log records are accepted."""
    if evidence.settings is None or evidence.settings.logs_endpoint is None:
        return ok("no log records are sent")
    return worst(evidence.said("logs"), proxied(evidence), "the server was not asked")


def errors(evidence: Evidence) -> Finding:
    """Look whether Sentry accepts the key and the project of the DSN."""
    if evidence.dsn is None:
        return ok("no errors are sent")
    return worst(evidence.said("errors"), proxied(evidence), "the server was not asked")


def proxy(evidence: Evidence) -> Finding:
    """Look whether telemetry for this machine goes through a proxy."""
    found = sorted(proxied(evidence))
    local = [url for url in found if _host(url).startswith(_LOCAL)]
    if local:
        host = _host(local[0])
        what = f"what goes to {host} goes through the proxy of HTTP_PROXY or HTTPS_PROXY"
        return warning(what, f"export NO_PROXY={host}")
    if found:
        return ok(f"{', '.join(sorted({_host(url) for url in found}))} through a proxy")
    return ok("no proxy is used")


def clock(evidence: Evidence) -> Finding:
    """Look whether the clocks of servers agree with this machine's."""
    if not evidence.clocks:
        return unknown("no server says what time it is")
    worst_one = max(evidence.clocks, key=lambda one: abs(one.ahead))
    if abs(worst_one.ahead) <= _APART:
        return ok(f"within {_APART:.0f} s of {', '.join(one.server for one in evidence.clocks)}")
    where = "ahead of" if worst_one.ahead > 0 else "behind"
    what = f"the clock of {worst_one.server} is {abs(worst_one.ahead):.0f} s {where} this one's"
    return warning(what, "timedatectl set-ntp true  # there or here: whichever is wrong")


def proxied(evidence: Evidence) -> set[str]:
    """Return the URLs that are reached through a proxy of the environment."""
    proxies = getproxies()
    return {url for url in _urls(evidence) if _uses(url, proxies)}


def _urls(evidence: Evidence) -> Iterable[str]:
    yield from (one.url for one in evidence.responses)
    if evidence.settings is not None and evidence.settings.otlp_protocol != "grpc":
        yield from filter(None, (evidence.settings.traces_endpoint,))
    yield from filter(None, (evidence.dsn,))


def _uses(url: str, proxies: dict[str, str]) -> bool:
    scheme = urlsplit(url).scheme
    chosen = proxies.get(scheme) or proxies.get("all")
    return bool(chosen and scheme) and not proxy_bypass(_host(url))


def _host(url: str) -> str:
    return urlsplit(url if "://" in url else f"//{url}").hostname or ""
