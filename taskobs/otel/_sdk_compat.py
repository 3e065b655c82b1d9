"""Private names of OpenTelemetry's packages: the only module that uses them.

Each name is declared in ``NAMES``, with what is done without it. Functions here fall back by
themselves, so their callers need no check.
"""

# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes

from taskobs.internal.private_names import PrivateName
from taskobs.internal.wrapping import Patches

_SET_PROVIDER: Final = PrivateName(
    package="opentelemetry-api",
    module="opentelemetry.trace",
    path="_set_tracer_provider",
    use="a TracerProvider that is named in OTEL_PYTHON_TRACER_PROVIDER, or set through a "
    "function that was imported before init(), is found later",
)
_PROVIDER: Final = PrivateName(
    package="opentelemetry-api",
    module="opentelemetry.trace",
    path="_TRACER_PROVIDER",
    use="close() leaves its TracerProvider in place, and a later one of the app is refused",
)
_SET_ONCE: Final = PrivateName(
    package="opentelemetry-api",
    module="opentelemetry.trace",
    path="_TRACER_PROVIDER_SET_ONCE",
    use="close() leaves its TracerProvider in place, and a later one of the app is refused",
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

NAMES: Final = (
    *(_SET_PROVIDER, _PROVIDER, _SET_ONCE, _PARTS),
    *(_SPAN_ATTRIBUTES, _SPAN_EVENTS, _SPAN_LINKS, _ATTRIBUTES_DICT, _LIST_DEQUE, _TRACER_CONFIG),
)


def watch_set_provider(patches: Patches, around: Callable[..., Any]) -> None:
    """Have ``around(wrapped, instance, args, kwargs)`` called when a TracerProvider is set.

    The provider is the first of ``args``, or ``kwargs["tracer_provider"]``.
    """
    # All ways to set a provider end in this function, which the API looks up at each call (seen
    # in 1.28 to 1.45). The public one may have been imported before, and then isn't wrapped.
    private = _SET_PROVIDER.find() is not None
    patches.wrap(trace, "_set_tracer_provider" if private else "set_tracer_provider", around)


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
    # The module's name begins with an underscore, as its API is not declared stable.
    module = sys.modules.get("opentelemetry._logs")
    get = getattr(module, "get_logger_provider", None)
    return get() if get is not None else None
