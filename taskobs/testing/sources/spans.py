"""Spans of this process go to the recording of the test, whichever provider makes them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from weakref import WeakSet

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.sampling import DEFAULT_ON

from taskobs.otel._sdk_compat import global_provider, set_global_provider, unset_provider
from taskobs.otel.app._compat import change_processors, processors_of
from taskobs.otel.own_provider import OwnProvider

Take = Callable[[ReadableSpan], object]


class Collector(SpanProcessor):
    """Gives each span that has ended to ``take``, if it has started since that was set."""

    def __init__(self) -> None:
        self._take: Take | None = None
        self._started: set[tuple[int, int] | None] = set()

    def use(self, take: Take | None) -> None:
        """Give the spans that start from now on to ``take``."""
        self._take, self._started = take, set()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Note a span of the test that runs."""
        del parent_context
        if self._take is not None:
            self._started.add(_ids(span))

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span; one that an earlier test has started is nobody's."""
        take, started, ids = self._take, self._started, _ids(span)
        if take is not None and ids in started:
            started.discard(ids)
            take(span)


def _ids(span: ReadableSpan) -> tuple[int, int] | None:
    context = span.get_span_context()
    return None if context is None else (context.trace_id, context.span_id)


class TestSpans:
    """The provider of a process's tests.

    There is one for all tests: modules of the app keep a tracer from their import on, and so from
    one test to the next.
    """

    __test__ = False  # pytest: no class of tests

    def __init__(self, resource: Resource) -> None:
        self._collector = Collector()
        self._provider = OwnProvider(
            self._collector, resource=resource, sampler=DEFAULT_ON, shutdown_on_exit=False
        )
        self._others: WeakSet[OwnProvider] = WeakSet()
        """Providers that sessions of the app had set, whose tracers the app may still have."""

    def note(self) -> None:
        """Note the provider that a session of the app has set; call it before it is suspended."""
        found = global_provider()
        if isinstance(found, OwnProvider) and found is not self._provider:
            self._others.add(found)

    @contextmanager
    def collecting(self, take: Take) -> Generator[None]:
        """Give all spans that end in a block to ``take``, and to nobody else."""
        with ExitStack() as undo:
            undo.callback(self._collector.use, None)
            self._collector.use(take)
            app = global_provider()
            if isinstance(app, sdk.TracerProvider) and self._use_apps(app, undo):
                yield
                return
            if app is not None:  # not the SDK's: the app's tracers go on with it
                undo.callback(set_global_provider, app)
                unset_provider()
            self._use_ours(undo)
            yield

    def _use_ours(self, undo: ExitStack) -> None:
        # Tracers of these providers, also those that modules keep, go on with the provider that is
        # set at the time: while there is a test, with this one.
        whichever_is_set = trace.ProxyTracerProvider()
        undo.callback(self._provider.replace_by, whichever_is_set)
        self._provider.take_back()
        for other in self._others:
            undo.callback(other.replace_by, whichever_is_set)
            other.replace_by(self._provider, with_processors=False)
        undo.callback(unset_provider)
        set_global_provider(self._provider)

    def _use_apps(self, app: sdk.TracerProvider, undo: ExitStack) -> bool:
        """Take the place of a provider's processors; False if this release offers no way."""
        replaced = processors_of(app)
        if not replaced:
            app.add_span_processor(self._collector)
        if not processors_of(app):
            return False

        def restored(now: tuple[SpanProcessor, ...]) -> tuple[SpanProcessor, ...]:
            return (*replaced, *(one for one in now if one is not self._collector))

        undo.callback(change_processors, app, restored)
        change_processors(app, lambda _: (self._collector,))
        return True
