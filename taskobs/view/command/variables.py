"""The variables by which an app sends its telemetry to the page, all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from taskobs.testing.http_server import HOST

SET_ASIDE: Final = (
    "OTEL_EXPORTER_",
    "OTEL_LOGS_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "SENTRY_DSN",
    "SENTRY_SPOTLIGHT",
    "TASKOBS_ENABLED",
    "TASKOBS_KEEP",
    "TASKOBS_LOG_IDS",
    "TASKOBS_LOGS",
    "TASKOBS_RELAY_SPOOL",
)
"""How variables begin that would send telemetry elsewhere, less of it, or none."""
DELAY: Final = ("OTEL_BSP_SCHEDULE_DELAY", "500")
"""Milliseconds after which a producer sends its spans: by default it takes five seconds."""
NO_PROXY: Final = ("NO_PROXY", "no_proxy")


def page_variables(port: int) -> dict[str, str]:
    """Return what has to be set in each process of the app."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_SAMPLER": "always_on",
        DELAY[0]: DELAY[1],
        "SENTRY_DSN": f"http://view@{HOST}:{port}/1",
        "TASKOBS_LOGS": "otlp",
    }


def set_aside(environment: Mapping[str, str]) -> list[str]:
    """Name the variables that a command will not see, or with another value."""
    return sorted(
        name for name, value in environment.items() if value and name.startswith(SET_ASIDE)
    )


def command_environment(environment: Mapping[str, str], port: int) -> dict[str, str]:
    """Return the environment of a command: the user's, with telemetry led to the page."""
    kept = {name: text for name, text in environment.items() if not name.startswith(SET_ASIDE)}
    proxies = {name: _with_host(environment.get(name, "")) for name in NO_PROXY}
    delay = {DELAY[0]: environment.get(DELAY[0]) or DELAY[1]}
    return kept | proxies | page_variables(port) | delay


def _with_host(hosts: str) -> str:
    return ",".join(dict.fromkeys([*filter(None, hosts.split(",")), HOST]))
