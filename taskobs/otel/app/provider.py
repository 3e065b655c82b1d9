"""A tracer provider that the app has set, whose OTLP exporters a relay can replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, SynchronousMultiSpanProcessor

from taskobs.internal.guard import Guard
from taskobs.otel.app._compat import change_processors, processors_of
from taskobs.otel.app.exporters import settings_of
from taskobs.otel.provider import TraceProvider, flush_of
from taskobs.otel.relay_processor import RelayProcessor
from taskobs.protocol.frames import pack
from taskobs.protocol.sanitize import sanitize
from taskobs.protocol.span_routes import MAX_ANNOUNCEMENT, announcement, route_for, with_route
from taskobs.relay_client.client import RelayClient

_ADD: Final = "add_span_processor"


class AppTraceProvider(TraceProvider):
    """A provider of the app's; with ``relay``, its spans can go through a relay.

    Then one processor takes the place of those whose exporters the relay has the settings of. All
    others stay as they are. ``restore`` puts them back.
    """

    def __init__(self, provider: trace.TracerProvider, *, relay: bool) -> None:
        super().__init__(provider)
        self._relay = relay and isinstance(provider, sdk.TracerProvider)
        self._spans: AppSpansProcessor | None = None
        self._client: RelayClient | None = None
        self._guard = Guard()

    @property
    def relays(self) -> bool:
        """Whether there are spans that a relay can send."""
        found = processors_of(self.provider) if self._relay else ()
        return self._spans is not None or any(settings_of(one) is not None for one in found)

    def route_to(self, client: RelayClient, guard: Guard) -> None:
        """Send spans to a relay from now on, also those of processors that are added later."""
        if self._relay:
            self._client, self._guard = client, guard
            vars(self.provider)[_ADD] = self._add
            change_processors(self.provider, self._relayed)

    def _add(self, *args: Any, **named: Any) -> None:  # noqa: ANN401  # the SDK's
        """Add a processor, as the provider does, and have the relay export for it if it can."""
        provider: Any = self.provider
        getattr(type(self.provider), _ADD)(provider, *args, **named)
        with self._guard:
            change_processors(provider, self._relayed)

    def _relayed(self, processors: tuple[SpanProcessor, ...]) -> tuple[SpanProcessor, ...]:
        """Return the processors with one in the place of those that a relay can replace."""
        replaced: dict[SpanProcessor, bytes] = {}
        others: list[SpanProcessor] = []
        at = None
        for one in processors:
            settings = settings_of(one)
            if isinstance(one, AppSpansProcessor):
                replaced.update(one.replaced)
            elif settings is not None:
                replaced[one] = settings
            else:
                others.append(one)
                continue
            at = len(others) if at is None else at
        client, before = self._client, self._spans.replaced if self._spans is not None else {}
        if client is None or at is None or replaced == before:
            return processors
        spans = AppSpansProcessor(client, replaced, self._guard)
        if not spans.announce(self._resource()):
            return processors
        self._spans = spans
        return (*others[:at], spans, *others[at:])

    def _resource(self) -> Resource:
        found = getattr(self.provider, "resource", None)
        return found if isinstance(found, Resource) else Resource.get_empty()

    def restore(self) -> None:
        """Export spans from this process again."""
        self._client = None
        if vars(self.provider).get(_ADD) == self._add:
            del vars(self.provider)[_ADD]
        if self._spans is not None:
            change_processors(self.provider, self._direct)
            self._spans = None

    def _direct(self, processors: tuple[SpanProcessor, ...]) -> tuple[SpanProcessor, ...]:
        found: list[SpanProcessor] = []
        for one in processors:
            found += one.replaced if isinstance(one, AppSpansProcessor) else [one]
        return tuple(found)

    def flushes(self, timeout: float, *, relayed: bool = False) -> list[Callable[[], object]]:
        """Return calls that export the ended spans, one for each processor of the app's.

        So an exporter that doesn't answer takes no time from the others.
        """
        if not relayed or self._spans is None:
            return super().flushes(timeout, relayed=relayed)
        found = processors_of(self.provider)
        return [flush_of(one, timeout) for one in found if one is not self._spans]

    def stop(self, timeout: float) -> None:
        """Let the app's exporters export again."""
        del timeout
        self.restore()


class AppSpansProcessor(RelayProcessor):
    """Sends the app's spans to the relay, which exports them as the ``replaced`` processors would.

    Those get the spans themselves once there is no relay any more. ``replaced`` has the packed
    settings of their exporters.
    """

    def __init__(
        self, client: RelayClient, replaced: Mapping[SpanProcessor, bytes], guard: Guard
    ) -> None:
        direct = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]  # the SDK's
        for one in replaced:
            direct.add_span_processor(one)
        super().__init__(client, direct, guard=guard)
        self.replaced = dict(replaced)
        self._resource: Resource | None = None
        self._routed = self._with_route

    def announce(self, resource: Resource) -> bool:
        """Tell the relay where spans with this resource go; False if that is too long."""
        exporters = list(dict.fromkeys(self.replaced.values()))
        announced = announcement(resource.attributes, resource.schema_url, exporters)
        if len(announced) > MAX_ANNOUNCEMENT:
            return False
        self._client.announce(announced, now=True)
        self._route = route_for(announced)
        self._resource = resource  # last: who finds it here uses the route
        return True

    def _with_route(self, span: ReadableSpan, payload: bytes) -> bytes:
        # In a forked child, the SDK gives its provider another resource, with the child's pid in
        # it, and so do some apps (seen in 1.45).
        if span.resource is not self._resource:
            self.announce(span.resource)
        return with_route(payload, self._route)

    def _resource_blob(self) -> bytes:
        resource = self._resource or Resource.get_empty()
        return pack([sanitize(resource.attributes), sanitize(resource.schema_url)])
