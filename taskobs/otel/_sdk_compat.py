"""Private names of OpenTelemetry's packages: the only module that uses them.

Each name is declared in ``NAMES``, with what is done without it. Functions here fall back by
themselves, so their callers need no check.
"""

# ruff: noqa: SLF001

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from opentelemetry import trace

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

NAMES: Final = (_SET_PROVIDER, _PROVIDER, _SET_ONCE)


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
