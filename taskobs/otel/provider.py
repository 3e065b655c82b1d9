"""The tracer provider of this process, and what it exports through."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio, Sampler

from taskobs.config.settings import TRACES_SAMPLER, Settings
from taskobs.internal import span_ids
from taskobs.internal.guard import Guard
from taskobs.otel._sdk_compat import unset_provider
from taskobs.otel.direct import PerProcessProcessor, SwitchableProcessor
from taskobs.otel.exporter import ExporterFactory
from taskobs.otel.fast_provider import FastSpanProvider
from taskobs.otel.fast_spans import SpanSink
from taskobs.otel.relay_processor import RelayProcessor
from taskobs.relay_client.client import RelayClient

_log = logging.getLogger("taskobs")


@runtime_checkable
class _Flushable(Protocol):
    def force_flush(self, timeout_millis: int = 30_000) -> bool: ...


class ChosenIds(RandomIdGenerator):
    """Gives a span the ids that were chosen for it, and random ones to all others."""

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        chosen = span_ids.peek()
        return chosen.trace_id if chosen else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """Return the id of a new span; the SDK asks for it last."""
        chosen = span_ids.take()
        return chosen.span_id if chosen else super().generate_span_id()


class TraceProvider:
    """Exports spans from this process: through a provider of ours, or the one the user has set."""

    def __init__(
        self,
        provider: object,
        spans: PerProcessProcessor | None = None,
        exporter: ExporterFactory | None = None,
    ) -> None:
        self._provider = provider
        self._spans = spans
        self._exporter = exporter
        self._switch = None if spans is None else SwitchableProcessor(spans)

    @property
    def ours(self) -> bool:
        """Whether the provider is ours, not the user's."""
        return self._spans is not None

    @classmethod
    def start(
        cls, settings: Settings, app_name: str, first_span: Callable[[], object]
    ) -> TraceProvider:
        """Use the provider that is set, or set one that exports over OTLP.

        Nothing is connected to and no thread is started before the first span ends; then
        ``first_span`` is called, once in each process.

        Raises:
            MissingExtraError: ``otlp_protocol`` is ``grpc`` and its exporter is not installed.
        """
        found = trace.get_tracer_provider()
        if not isinstance(found, trace.ProxyTracerProvider):
            if settings.traces:
                _log.info("taskobs: a TracerProvider is set already: spans go where it sends them")
            return cls(found)
        exporter = ExporterFactory(settings)

        def make() -> BatchSpanProcessor:
            first_span()
            return BatchSpanProcessor(exporter.make())

        spans = PerProcessProcessor(make)
        provider = FastSpanProvider(
            resource=_resource(settings, app_name),
            sampler=_sampler(settings),
            id_generator=ChosenIds(),
            shutdown_on_exit=False,
        )
        trace.set_tracer_provider(provider)
        made = cls(provider, spans, exporter)
        provider.add_span_processor(made.processor)
        return made

    @property
    def processor(self) -> SpanProcessor:
        """What our provider hands spans to."""
        assert self._switch is not None  # noqa: S101  # asked for our own provider alone
        return self._switch

    def prepare(self) -> None:
        """Import what sending takes, if it is for us to send: before the first run and fork."""
        if self._exporter is not None:
            self._exporter.prepare()

    def route_to(self, client: RelayClient, guard: Guard) -> None:
        """Hand spans to a relay, if the provider is ours; what has ended before is sent now."""
        if self._spans is not None and self._switch is not None:
            spans = self._switch.to = RelayProcessor(client, self._spans, guard=guard)
            self._route_fast_spans(spans)
            self._spans.retire()

    def restore(self) -> None:
        """Send spans from this process again."""
        if self._spans is not None and self._switch is not None:
            self._route_fast_spans(None)
            self._switch.to = self._spans

    def _route_fast_spans(self, span_sink: SpanSink | None) -> None:
        if isinstance(self._provider, FastSpanProvider):
            self._provider.route_to(span_sink)

    def resource(self) -> dict[str, object]:
        """Return what a relay must know of all spans of this process."""
        found = getattr(self._provider, "resource", None)
        if not isinstance(found, Resource):
            return {}
        return {"resource": dict(found.attributes), "schema_url": found.schema_url}

    def after_fork(self) -> None:
        """In a forked child: leave alone what the parent has started."""
        if self._spans is not None:
            self._spans.after_fork()

    def flush(self) -> None:
        """Export what has ended; blocks for as long as the exporter does."""
        if isinstance(self._provider, _Flushable):
            self._provider.force_flush()

    def stop(self) -> None:
        """Export what has ended and, if the provider is ours, stop it; may block like ``flush``."""
        if self._spans is not None:
            self.restore()
            self._spans.shutdown()
        else:
            self.flush()

    def withdraw(self) -> None:
        """Take our provider away, so that another may be set."""
        if self._spans is not None and trace.get_tracer_provider() is self._provider:
            unset_provider()


def _resource(settings: Settings, app_name: str) -> Resource:
    """Return the SDK's resource: named by the setting, by the variables, or as the app is."""
    if settings.service_name:
        return Resource.create({SERVICE_NAME: settings.service_name})
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: app_name}))
    return resource


def _sampler(settings: Settings) -> Sampler | None:
    """Return the sampler of ``sample_rate``; None lets the SDK read ``OTEL_TRACES_SAMPLER``.

    The SDK reads ``OTEL_TRACES_SAMPLER_ARG`` only beside that one; here it works alone too.
    """
    named = os.environ.get(TRACES_SAMPLER) and settings.given["sample_rate"] != "argument"
    if settings.sample_rate is None or named:
        return None
    return ParentBasedTraceIdRatio(settings.sample_rate)
