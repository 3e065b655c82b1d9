"""The tracer provider of this process: the app's, if it has set one, or ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from taskobs.config.settings import Settings
from taskobs.internal.guard import Guard
from taskobs.internal.timeouts import run_with_timeout
from taskobs.otel._sdk_compat import global_provider, set_global_provider, unset_provider
from taskobs.otel.chosen_ids import ChosenIds
from taskobs.otel.components import exporter_of, id_generator, sampler_of
from taskobs.otel.direct import PerProcessProcessor, SwitchableProcessor
from taskobs.otel.export.exporter import ExporterFactory
from taskobs.otel.own_provider import OwnProvider
from taskobs.otel.resource import AppName, resource_of
from taskobs.protocol.held_spans import rules

if TYPE_CHECKING:
    from taskobs.otel.held.sampler import HoldingSampler
    from taskobs.otel.relay_processor import RelayProcessor
    from taskobs.protocol.held_spans.rules import KeepRules
    from taskobs.relay_client.client import RelayClient

_MILLISECONDS: Final = 1000


@runtime_checkable
class Flushable(Protocol):
    """A provider or a processor."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export the spans that have ended."""
        ...


class TraceProvider:
    """A provider that the app has set: a session uses it, and leaves its configuration alone."""

    ours = False
    """Whether the provider is ours."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self.provider = provider

    @property
    def destination(self) -> str:
        """Return where spans go, for the log; without secrets."""
        return "the app's TracerProvider"

    @property
    def replaceable(self) -> bool:
        """Whether the app can still set another provider without splitting a trace."""
        return False

    @property
    def relays(self) -> bool:
        """Whether there are spans that a relay can send."""
        return False

    def prepare(self) -> None:
        """Import the exporter, if it is ours, before the first run and fork."""

    def hold_runs(self) -> None:
        """Record runs that are not sampled, to keep some of them: this is a worker's process."""

    def route_to(self, client: RelayClient, guard: Guard) -> None:
        """Send spans to a relay from now on; earlier ones are exported by this process."""

    def restore(self) -> None:
        """Export spans from this process again."""

    def resource(self) -> dict[str, object]:
        """Return the resource of this process's spans, as the relay needs it."""
        found = getattr(self.provider, "resource", None)
        if not isinstance(found, Resource):
            return {}
        return {"resource": dict(found.attributes), "schema_url": found.schema_url}

    def flushes(self, timeout: float, *, relayed: bool = False) -> list[Callable[[], object]]:
        """Return calls that export the ended spans; each may block, so run them in parallel.

        Spans that were ``relayed`` are exported by the relay, not by this process.
        """
        del relayed
        provider = self.provider
        return [flush_of(provider, timeout)] if isinstance(provider, Flushable) else []

    def stop(self, timeout: float) -> None:
        """Stop our processors, within ``timeout`` seconds."""

    def withdraw(self) -> None:
        """Remove our provider, so that another can be set."""


class OwnTraceProvider(TraceProvider):
    """Our provider, which exports over OTLP and to the exporters of ``OTEL_TRACES_EXPORTER``.

    It opens no connection and starts no thread before the first span ends. Then
    ``first_export`` is called, once in each process.
    """

    ours = True

    def __init__(
        self, settings: Settings, app_name: AppName, first_export: Callable[[], object]
    ) -> None:
        """Make the provider without setting it.

        Raises:
            MissingExtraError: ``otlp_protocol`` is ``grpc`` and its exporter is not installed.
        """
        self._settings = settings
        self._first_export = first_export
        self._exporter = ExporterFactory(settings) if settings.otlp else None
        self._spans = PerProcessProcessor(self._make)
        self._direct: SpanProcessor = self._spans
        """Exports from this process."""
        self._switch = SwitchableProcessor(self._spans)
        self._ids = ChosenIds(id_generator())
        self._own = OwnProvider(
            self._switch,
            resource=resource_of(settings, app_name),
            sampler=sampler_of(settings),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._sampler: HoldingSampler | None = None
        if settings.keep and self._exporter is not None:
            self._hold(rules.parse(settings.keep))
        for name in settings.other_exporters:
            self._own.add_span_processor(PerProcessProcessor(self._maker(name)))
        self._own.route_to(self._span_sink)
        super().__init__(self._own)

    @property
    def _span_sink(self) -> PerProcessProcessor | None:
        """Where fast spans go without a relay; with None, spans are the SDK's."""
        can_be_fast = self._exporter is not None and self._exporter.encodes
        return self._spans if can_be_fast and self._sampler is None else None

    def _hold(self, keep: KeepRules) -> None:
        """Have runs that are not sampled held, once ``hold_runs`` is called."""
        from taskobs.otel.held.processors import HoldingProcessor  # only ``keep`` needs them
        from taskobs.otel.held.sampler import HoldingSampler

        # The SDK may have chosen the sampler, by variables of its own. No tracer has it yet.
        self._sampler = self._own.sampler = HoldingSampler(self._own.sampler)
        self._direct = self._switch.to = HoldingProcessor(self._spans, self._sampler, keep)

    def hold_runs(self) -> None:
        """Record runs that are not sampled, to keep some of them: this is a worker's process."""
        if self._sampler is not None:
            self._sampler.turn_on()

    def _make(self) -> SpanProcessor:
        self._first_export()
        if self._exporter is None:
            return SpanProcessor()
        return self._exporter.make_processor()

    def _maker(self, name: str) -> Callable[[], SpanProcessor]:
        def make() -> SpanProcessor:
            self._first_export()
            exporter = exporter_of(name)
            return SpanProcessor() if exporter is None else BatchSpanProcessor(exporter)

        return make

    def set(self) -> None:
        """Make it the provider of the process."""
        set_global_provider(self._own)

    @property
    def destination(self) -> str:
        """Return where spans go, for the log; without secrets."""
        shown = [self._settings.shown_endpoint] if self._exporter is not None else []
        return " and ".join([*shown, *self._settings.other_exporters])

    @property
    def replaceable(self) -> bool:
        """Whether no span has begun in this process."""
        return not self._ids.begun

    @property
    def relays(self) -> bool:
        """Whether there are spans that a relay can send."""
        return self._exporter is not None

    def replace_by(self, provider: trace.TracerProvider) -> None:
        """Be replaced by another provider: the tracers that we gave out use it from now on."""
        self.restore()
        self._own.replace_by(provider)

    def prepare(self) -> None:
        """Import the exporter, before the first run and fork."""
        if self._exporter is not None:
            self._exporter.prepare()

    def route_to(self, client: RelayClient, guard: Guard) -> None:
        """Send spans to a relay from now on; earlier ones are exported now."""
        if self._exporter is None:
            return
        spans = self._switch.to = self._relay_processor(client, guard)
        self._own.route_to(spans)
        self._spans.retire()

    def _relay_processor(self, client: RelayClient, guard: Guard) -> RelayProcessor:
        if self._sampler is not None:
            from taskobs.otel.held.processors import HoldingRelayProcessor

            return HoldingRelayProcessor(client, self._direct, self._sampler, guard)
        from taskobs.otel.relay_processor import RelayProcessor  # only a worker's processes have it

        return RelayProcessor(client, self._direct, guard=guard)

    def restore(self) -> None:
        """Export spans from this process again."""
        self._own.route_to(self._span_sink)
        self._switch.to = self._direct

    def flushes(self, timeout: float, *, relayed: bool = False) -> list[Callable[[], object]]:
        """Return calls that export the ended spans, one for each processor.

        So a collector that doesn't answer takes no time from processors that the app has added.
        """
        # Through the switchable processor: after a relay was given up, this process may hold
        # spans that it did not send.
        ours = [] if relayed and self._exporter is not None else [self._switch]
        return [flush_of(one, timeout) for one in [*ours, *self._own.added]]

    def stop(self, timeout: float) -> None:
        """Stop our processors, which export what is left, within ``timeout`` seconds."""
        self.restore()
        others = [one for one in self._own.added if isinstance(one, PerProcessProcessor)]
        run_with_timeout(timeout, *(one.shutdown for one in [self._spans, *others]))

    def withdraw(self) -> None:
        """Remove the provider, so that another can be set."""
        if global_provider() is self._own:
            unset_provider()


def flush_of(flushed: Flushable, timeout: float) -> Callable[[], object]:
    """Return the call that flushes a provider or processor within ``timeout`` seconds."""
    return lambda: flushed.force_flush(int(timeout * _MILLISECONDS))
