"""Our tracer provider, which hands its tracers over to one that the app sets later."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import Tracer, TracerProvider

from taskobs.otel.fast_provider import FastSpanProvider, SpanSink


class OwnProvider(FastSpanProvider):
    """The SDK's provider; its tracers go on with those of another one, should it be replaced."""

    def __init__(self, processor: SpanProcessor, **options: Any) -> None:  # noqa: ANN401  # the SDK's
        """``processor`` is ours; those that are added later are the app's."""
        self._given_out: WeakKeyDictionary[Tracer, tuple[tuple[Any, ...], dict[str, Any]]] = (
            WeakKeyDictionary()
        )
        self._successor: TracerProvider | None = None
        self._span_sink: SpanSink | None = None
        """Of fast spans, while there is a successor."""
        self.added: list[SpanProcessor] = []
        """Processors that the app has added."""
        super().__init__(**options)
        super().add_span_processor(processor)

    def get_tracer(self, *args: Any, **named: Any) -> Tracer:  # noqa: ANN401  # the SDK's
        """Return a tracer."""
        if self._successor is not None:
            return self._successor.get_tracer(*args, **named)
        tracer = super().get_tracer(*args, **named)
        self._given_out[tracer] = args, named
        return tracer

    def route_to(self, span_sink: SpanSink | None) -> None:
        """Send fast spans to a sink, if there is no other processor; None: make none.

        While there is a successor none are made, as all spans are the successor's.
        """
        self._span_sink = span_sink
        if self._successor is None:
            super().route_to(span_sink)

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Add a processor of the app's."""
        if self._successor is None:
            super().add_span_processor(span_processor)
            self.added.append(span_processor)
        else:
            _add_processor(self._successor, span_processor)

    def replace_by(self, successor: TracerProvider, *, with_processors: bool = True) -> None:
        """Have all tracers go on with another provider's, also those that were given out.

        It also gets the processors that the app has added to this one.
        """
        if self._successor is None:
            self._span_sink = self.fast_processors.span_sink
            super().route_to(None)
        self._successor = successor
        for tracer, (args, named) in list(self._given_out.items()):
            following: Any = successor.get_tracer(*args, **named)
            given: Any = tracer
            # Of the object, so that they are found before the methods of whichever class it is.
            given.start_span = following.start_span
            given.start_as_current_span = following.start_as_current_span
        for one in self.added if with_processors else ():
            _add_processor(successor, one)

    def take_back(self) -> None:
        """Be used again, also by the tracers that were given out, after ``replace_by``."""
        self._successor = None
        self.route_to(self._span_sink)
        for tracer in list(self._given_out):
            vars(tracer).pop("start_span", None)
            vars(tracer).pop("start_as_current_span", None)


def _add_processor(provider: TracerProvider, processor: SpanProcessor) -> None:
    add = getattr(provider, "add_span_processor", None)
    if add is not None:  # else it is no provider of the SDK's, and has no processors
        add(processor)
