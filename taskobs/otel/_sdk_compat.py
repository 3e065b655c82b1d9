"""Private names of OpenTelemetry's packages: the only module that uses them.

Those of the app's exporters are in ``app/_compat``, those of meters in ``app/_metrics_compat``.

Each name is declared in ``NAMES``, with what is done without it. Functions here fall back by
themselves, so their callers need no check.
"""

# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import attach, detach, set_value
from opentelemetry.environment_variables import OTEL_PYTHON_TRACER_PROVIDER

from taskobs.internal.private_names import PrivateName
from taskobs.internal.wrapping import Patches

_SET_PROVIDER: Final = PrivateName(
    package="opentelemetry-api",
    module="opentelemetry.trace",
    path="_set_tracer_provider",
    use="a TracerProvider that is named in OTEL_PYTHON_TRACER_PROVIDER, or set through a "
    "function that was imported before init(), is found later; New Relic reports no pool children",
)
_PROVIDER: Final = PrivateName(
    package="opentelemetry-api",
    module="opentelemetry.trace",
    path="_TRACER_PROVIDER",
    use="close() leaves its TracerProvider in place, and a later one of the app is refused; "
    "New Relic reports no pool children",
)
_SET_ONCE: Final = PrivateName(
    package="opentelemetry-api",
    module="opentelemetry.trace",
    path="_TRACER_PROVIDER_SET_ONCE",
    use="close() leaves its TracerProvider in place, and a later one of the app is refused",
)
_SUPPRESS: Final = PrivateName(
    package="opentelemetry-api",
    module="opentelemetry.context",
    path="_SUPPRESS_INSTRUMENTATION_KEY",
    use="libraries that look for it themselves may make spans of the export of spans",
)
_PARTS: Final = PrivateName(
    package="opentelemetry-api",
    module="opentelemetry.propagators.composite",
    path="CompositePropagator._propagators",
    use="headers are read and written by OpenTelemetry's propagator, not in half of its time",
    of_instances=True,
)
_SDK: Final = "opentelemetry-sdk"
_TRACE: Final = "opentelemetry.sdk.trace"
_SPAN_ATTRIBUTES: Final = PrivateName(
    package=_SDK,
    module=_TRACE,
    path="ReadableSpan._attributes",
    use="attributes of the SDK's spans are set one by one, and copied to be sent",
    of_instances=True,
)
_SPAN_EVENTS: Final = PrivateName(
    package=_SDK,
    module=_TRACE,
    path="ReadableSpan._events",
    use="events of the SDK's spans are copied to be sent",
    of_instances=True,
)
_SPAN_LINKS: Final = PrivateName(
    package=_SDK,
    module=_TRACE,
    path="ReadableSpan._links",
    use="links of the SDK's spans are copied to be sent",
    of_instances=True,
)
_ATTRIBUTES_DICT: Final = PrivateName(
    package="opentelemetry-api",
    module="opentelemetry.attributes",
    path="BoundedAttributes._dict",
    use="attributes of the SDK's spans are set one by one, and copied to be sent",
    of_instances=True,
)
_LIST_DEQUE: Final = PrivateName(
    package=_SDK,
    module="opentelemetry.sdk.util",
    path="BoundedList._dq",
    use="events and links of the SDK's spans are copied to be sent",
    of_instances=True,
)
_TRACER_CONFIG: Final = PrivateName(
    package=_SDK,
    module=_TRACE,
    path="Tracer._tracer_config",
    use="a tracer that is switched off makes spans all the same; before 1.40 none can be",
    of_instances=True,
)

_LOGS: Final = PrivateName(
    package="opentelemetry-api",
    module="opentelemetry._logs",  # its API is not declared stable
    path="get_logger_provider",
    use="logs of the app's LoggerProvider may be lost at the end of a pool child",
)
_STOCK_BASE: Final = "opentelemetry.instrumentation.instrumentor"
_INSTANCE: Final = PrivateName(
    package="opentelemetry-instrumentation",
    module=_STOCK_BASE,
    path="BaseInstrumentor._instance",
    use="an app that calls CeleryInstrumentor().instrument(), too, gets each span twice",
)
_IS_INSTRUMENTED: Final = PrivateName(
    package="opentelemetry-instrumentation",
    module=_STOCK_BASE,
    path="BaseInstrumentor._is_instrumented_by_opentelemetry",
    use="an app that starts a CeleryInstrumentor which it made earlier gets each span twice",
)
_STOCK: Final = "opentelemetry.instrumentation.celery"
_STOCK_TRACER: Final = PrivateName(
    package="opentelemetry-instrumentation-celery",
    module=_STOCK,
    path="CeleryInstrumentor._tracer",
    use="a CeleryInstrumentor goes on with the process's TracerProvider after uninstrument()",
    of_instances=True,
)
_STOCK_LINKS: Final = PrivateName(
    package="opentelemetry-instrumentation-celery",
    module=_STOCK,
    path="CeleryInstrumentor._use_span_links",  # older releases have no such setting
    use="a CeleryInstrumentor goes on without span links after uninstrument()",
    of_instances=True,
)
_STATEMENT_SPAN: Final = PrivateName(
    package="opentelemetry-instrumentation-sqlalchemy",
    module="sqlalchemy.engine.default",
    path="DefaultExecutionContext._otel_span",
    use="a statement through SQLAlchemy is shown twice where its driver is instrumented, too",
    of_instances=True,
)
_GRPC_CHANNEL: Final = PrivateName(
    package="grpcio",
    module="grpc._channel",
    path="Channel",
    use="a pool child may hang if its parent was exporting for the first time when it forked",
)

NAMES: Final = (
    *(_SET_PROVIDER, _PROVIDER, _SET_ONCE, _SUPPRESS, _PARTS, _LOGS),
    *(_SPAN_ATTRIBUTES, _SPAN_EVENTS, _SPAN_LINKS, _ATTRIBUTES_DICT, _LIST_DEQUE, _TRACER_CONFIG),
    *(_INSTANCE, _IS_INSTRUMENTED, _STOCK_TRACER, _STOCK_LINKS),
    *(_STATEMENT_SPAN, _GRPC_CHANNEL),
)

_SUPPRESS_PLAIN: Final = "suppress_instrumentation"
GRPC_IMPORTS: Final = ("grpc.experimental", _GRPC_CHANNEL.module)
"""The modules that the exporter over gRPC imports when it is made (seen in grpcio 1.60 to 1.85).

Whoever imports them early does without those that a release lacks.
"""


def watch_set_provider(patches: Patches, around: Callable[..., Any]) -> None:
    """Have ``around(wrapped, instance, args, kwargs)`` called when a TracerProvider is set.

    The provider is the first of ``args``, or ``kwargs["tracer_provider"]``.
    """
    # All ways to set a provider end in this function, which the API looks up at each call (seen
    # in 1.28 to 1.45). The public one may have been imported before, and then isn't wrapped.
    private = _SET_PROVIDER.find() is not None
    patches.wrap(trace, "_set_tracer_provider" if private else "set_tracer_provider", around)


def global_provider() -> trace.TracerProvider | None:
    """Return the global provider; None if none was set.

    New Relic's agent wraps the public functions, and registers with its server when one is called
    (seen in 14.1). Before a worker forks, that leaves its pool children unreported.
    """
    found: trace.TracerProvider | None = _PROVIDER.find()
    if found is None and (_PROVIDER.missing or OTEL_PYTHON_TRACER_PROVIDER in os.environ):
        found = trace.get_tracer_provider()
    return None if isinstance(found, trace.ProxyTracerProvider) else found


def set_global_provider(provider: trace.TracerProvider) -> None:
    """Set the global provider, without the public function, as in ``global_provider``."""
    private = _SET_PROVIDER.find()
    if private is None:
        trace.set_tracer_provider(provider)
    else:
        private(provider, log=True)


def unset_provider() -> bool:
    """Let a TracerProvider be set once more; False if this release of the API has no way back."""
    set_once = _SET_ONCE.find()
    if set_once is None or _PROVIDER.missing:
        return False
    api: Any = trace
    api._TRACER_PROVIDER = None
    api._TRACER_PROVIDER_SET_ONCE = type(set_once)()
    return True


def parts_of(propagator: object) -> Iterable[object]:
    """Return what a composite propagator consists of; nothing if that can't be told."""
    parts: Iterable[object] = _PARTS.read(propagator, ())
    return parts


@contextmanager
def no_spans_of_export() -> Generator[None]:
    """Have instrumented libraries make no spans in a block, as the SDK's processors do.

    ``own_traffic.suppressed`` imports half of a hundred modules for that.
    """
    # The second key is that of older releases, which `is_instrumentation_enabled` still reads.
    context = set_value(_SUPPRESS.find() or _SUPPRESS_PLAIN, value=True)
    token = attach(set_value(_SUPPRESS_PLAIN, value=True, context=context))
    try:
        yield
    finally:
        detach(token)


def can_be_switched_off(tracer: object) -> bool:
    """Tell whether this release of the SDK can switch a tracer off."""
    return _TRACER_CONFIG.read(tracer) is not None


is_switched_on: Final[Callable[[object], bool]] = attrgetter("_tracer_config.is_enabled")
"""Tells whether a tracer that can be switched off is not."""


quick_fields: Final = attrgetter(
    *("name", "context", "parent", "kind._value_", "start_time", "end_time"),
    *("_attributes._dict", "_events._dq", "_links._dq"),
    *("status", "instrumentation_scope"),
    *("_attributes.dropped", "_events.dropped", "_links.dropped"),
)
"""As ``span_encoder.public_fields``, without copies: a fifth of its time.

It raises AttributeError for a span without these names; the encoder uses ``public_fields`` then.
"""


def set_unchecked(span: Any, attributes: dict[str, Any]) -> bool:  # noqa: ANN401  # of any class
    """Set attributes that need no check on a span that records.

    False where only ``set_attributes`` can do it; then nothing is set.
    """
    try_set: Callable[[dict[str, Any]], bool] | None = getattr(span, "try_set_attributes", None)
    if try_set is not None:  # of a fast span
        return try_set(attributes)
    try:
        kept: Any = span._attributes
        if type(kept) is BoundedAttributes and kept.max_value_len is None:
            held = kept._dict
            if len(held) + len(attributes) <= (kept.maxlen or 0):
                held.update(attributes)  # in one step, so that no lock is needed
                return True
    except AttributeError:
        pass
    return False


def logger_provider() -> object:
    """Return the provider of OpenTelemetry's logs, if the process uses them."""
    get = _LOGS.find()
    return get() if get is not None else None


def instance_of(kind: type) -> Any:  # noqa: ANN401  # the stock class ships no types
    """Return the one object of a class of instrumentors; None if there is none, or no telling."""
    return _INSTANCE.read(kind)


def set_instance(kind: Any, instance: object) -> None:  # noqa: ANN401  # as above
    """Have ``kind()`` give this object, where the release keeps it as an attribute of the class."""
    if not _INSTANCE.missing:
        kind._instance = instance


def is_instrumented_app(app: object) -> bool:
    """Tell whether an app of a web framework is instrumented; that of Starlette has a public name.

    Instrumentors of apps use the same name on them (seen in 0.49b0 to 0.66b1).
    """
    public = getattr(app, "is_instrumented_by_opentelemetry", False)
    return bool(public or _IS_INSTRUMENTED.read(app, default=False))


def has_statement_span(context: object) -> bool:
    """Tell whether SQLAlchemy's instrumentation makes a span of what is executed in a context.

    It is an attribute that it sets on SQLAlchemy's object (seen in 0.49b0 to 0.66b1).
    """
    return _STATEMENT_SPAN.read(context) is not None


def block(instrumentor: Any) -> bool:  # noqa: ANN401  # as above
    """Have an instrumentor ignore ``instrument()``; False if this release offers no way."""
    if _IS_INSTRUMENTED.missing:
        return False
    instrumentor._is_instrumented_by_opentelemetry = True
    return True


def unblock(instrumentor: Any) -> bool:  # noqa: ANN401  # as above
    """Undo `block`; False if somebody has called ``uninstrument()`` meanwhile."""
    if not instrumentor.is_instrumented_by_opentelemetry:
        return False
    instrumentor._is_instrumented_by_opentelemetry = False
    return True


def instrument_again(instrumentor: Any) -> None:  # noqa: ANN401  # as above
    """Start a stock instrumentor that was stopped, with what it was started with before."""
    tracer, metrics = _STOCK_TRACER.read(instrumentor), instrumentor.metrics
    links = _STOCK_LINKS.read(instrumentor, default=False)
    instrumentor.instrument(skip_dep_check=True, use_span_links=links)
    instrumentor.metrics = metrics
    if tracer is not None:
        instrumentor._tracer = tracer
