"""Other products that observe Celery, each where it is installed: ``make bench ARGS=--peers``.

All of them send to the loopback, or nowhere.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from bench.setups import Flush, Setup, Target


def sentry_tracing(target: Target) -> Flush:
    """Set up Sentry with a transaction for each run, and no OpenTelemetry."""
    import sentry_sdk

    sentry_sdk.init(dsn=target.dsn, traces_sample_rate=1.0)
    return sentry_sdk.flush


def ddtrace(target: Target) -> Flush:
    """Set up Datadog's tracer for Celery alone, without its telemetry about itself."""
    os.environ |= {
        "DD_TRACE_AGENT_URL": target.agent,
        "DD_TRACE_RATE_LIMIT": "-1",  # it records 100 traces a second otherwise
        "DD_CELERY_DISTRIBUTED_TRACING": "true",
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        "DD_CRASHTRACKING_ENABLED": "false",
    }
    library: Any = import_module("ddtrace")
    library.patch(celery=True)
    flush: Flush = library.tracer.flush
    return flush


def new_relic(_: Target) -> Flush:
    """Set up New Relic's agent in its developer mode, which makes all payloads and sends none."""
    os.environ |= {
        "NEW_RELIC_DEVELOPER_MODE": "true",
        "NEW_RELIC_LICENSE_KEY": "0" * 40,
        "NEW_RELIC_APP_NAME": "bench",
        "NEW_RELIC_LOG": "/dev/null",
    }
    library: Any = import_module("newrelic.agent")
    library.initialize()
    if "BENCH_SETUP" in os.environ:  # in a worker each child registers itself
        return lambda: None
    library.register_application(timeout=10.0)
    core: Any = import_module("newrelic.core.agent")
    application: Any = core.agent_instance().application("bench")
    return lambda: application.harvest(flexible=False)


PEERS: Final[dict[str, tuple[str, Setup]]] = {
    "Sentry with tracing": ("sentry_sdk", sentry_tracing),
    "Datadog (ddtrace)": ("ddtrace", ddtrace),
    "New Relic": ("newrelic", new_relic),
}
"""What can be compared beside the set-ups of `bench.setups`: the package, and the set-up."""


def installed() -> dict[str, Setup]:
    """Give those whose package is on this machine."""
    return {name: setup for name, (package, setup) in PEERS.items() if find_spec(package)}
