"""All checks, in the order in which they are shown.

To add one: write a function that takes the ``Evidence`` and returns a ``Finding``, give it a line
here, and describe it in docs/how-to/doctor.md.
"""

from __future__ import annotations

from typing import Final

from taskobs.cli.doctor.checks import application, configuration, environment, probe, servers
from taskobs.cli.doctor.finding import Check

# fmt: off
CHECKS: Final = (
    Check("app", "The app can be imported", configuration.app),
    Check("init", "Importing it calls taskobs.init()", configuration.init),
    Check("settings", "Its settings are accepted", configuration.settings),
    Check("switched_on", "Nothing is switched off", configuration.switched_on),
    Check("destination", "This process knows where telemetry goes", configuration.destination),
    Check("endpoint_path", "The endpoints have the right paths", configuration.endpoint_path),
    Check("endpoint_port", "The protocol is that of the port", configuration.endpoint_port),
    Check("protocol", "The protocol's exporter is installed", configuration.protocol),
    Check("sampling", "Traces are recorded", configuration.sampling),
    Check("eager", "Tasks are published", configuration.eager),

    Check("traces", "The OTLP endpoint accepts spans", servers.traces),
    Check("metrics", "The OTLP endpoint accepts metrics", servers.metrics),
    Check("logs", "The OTLP endpoint accepts log records", servers.logs),
    Check("errors", "Sentry accepts the DSN", servers.errors),
    Check("proxy", "No proxy is in the way", servers.proxy),
    Check("clock", "The clocks agree", servers.clock),

    Check("propagator", "The propagator carries a trace", application.propagator),
    Check("sentry_tracing", "Sentry makes no traces of its own", application.sentry_tracing),
    Check("instrumentor", "Nothing is recorded twice", application.instrumentor),
    Check("log_setup", "The app's own logging has the ids", application.log_setup),
    Check("log_format", "Log lines of tasks have the ids", application.log_format),
    Check("pool_signals", "The pool sends what the app waits for", application.pool_signals),
    Check("events", "Events are sent where they are needed", application.events),

    Check("versions", "The releases are tested ones", environment.versions),
    Check("relay", "The relay can start", environment.relay),
    Check("broker", "The broker responds", environment.broker),
    Check("result_backend", "The result backend responds", environment.result_backend),

    Check("worker", "A worker starts", probe.worker),
    Check("run", "A probe task is published and run", probe.run),
    Check("headers", "The message's headers arrive", probe.headers),
    Check("publish_span", "The publish's span is accepted", probe.publish_span),
    Check("run_span", "The run's span is accepted", probe.run_span),
    Check("event", "The event of its failure is accepted", probe.event),
    Check("one_trace", "Publish, run and event are one trace", probe.one_trace),
    Check("cleaned", "Nothing is left in the broker", probe.cleaned),
)
# fmt: on
