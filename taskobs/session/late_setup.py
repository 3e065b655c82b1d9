"""Notices when the app sets a TracerProvider, MeterProvider or Sentry client after ``init()``.

The functions that set them are wrapped. So it costs nothing where they aren't called: no
publish and no run has to check.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, Protocol

from opentelemetry.trace import TracerProvider

from taskobs.internal.import_hooks import when_imported
from taskobs.internal.wrapping import Patches
from taskobs.otel._sdk_compat import watch_set_provider
from taskobs.otel.app._metrics_compat import watch_set_meter_provider

_SENTRY: Final = "sentry_sdk.scope"


class Listener(Protocol):
    """Is told of what the app sets up."""

    def may_set(self, provider: TracerProvider) -> bool:
        """Tell whether the app may replace our provider now."""
        ...

    def look(self) -> object:
        """Use the provider and the client that are set now."""


class LateSetup:
    """Calls a listener when the app sets one of them, from ``install`` to ``remove``.

    For a MeterProvider that is ``look_at_meters``, which never raises.
    """

    def __init__(self, listener: Listener, look_at_meters: Callable[[], object]) -> None:
        self._listener = listener
        self._look_at_meters = look_at_meters
        self._patches = Patches()
        self._undo = ExitStack()

    def install(self) -> None:
        """Start watching."""
        watch_set_provider(self._patches, self._set_provider)
        watch_set_meter_provider(self._patches, self._set_meter_provider)
        # Wrapped when the app imports Sentry: importing it here would cost processes without it.
        self._undo.callback(when_imported(_SENTRY, self._sentry_is_here))

    def remove(self) -> None:
        """Stop watching."""
        self._undo.close()
        self._patches.remove()

    def _set_provider(
        self, set_it: Callable[..., object], _: object, args: tuple[Any, ...], named: dict[str, Any]
    ) -> object:
        provider = args[0] if args else named.get("tracer_provider")
        if isinstance(provider, TracerProvider) and not self._listener.may_set(provider):
            return None
        done = set_it(*args, **named)
        self._listener.look()
        return done

    def _set_meter_provider(
        self, set_it: Callable[..., object], _: object, args: tuple[Any, ...], named: dict[str, Any]
    ) -> object:
        done = set_it(*args, **named)
        self._look_at_meters()
        return done

    def _sentry_is_here(self) -> None:
        scope = getattr(sys.modules[_SENTRY], "Scope", None)
        if scope is not None and "set_client" in vars(scope):
            self._patches.wrap(scope, "set_client", self._set_client)

    def _set_client(
        self, set_it: Callable[..., object], _: object, args: tuple[Any, ...], named: dict[str, Any]
    ) -> object:
        done = set_it(*args, **named)
        self._listener.look()
        return done
