"""A session's spans: they start with an endpoint, or when the app sets a provider."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from opentelemetry import trace

from taskobs.config.settings import Settings
from taskobs.config.task_rules import task_rules
from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.otel._sdk_compat import global_provider
from taskobs.otel.instrumentor_patch import InstrumentorPatch, is_instrumented
from taskobs.otel.provider import OwnTraceProvider, TraceProvider
from taskobs.otel.resource import AppName, LateResource
from taskobs.otel.task_spans import TaskSpans, shared_task_signals

_log: Final = logging.getLogger("taskobs")


class Spans:
    """Makes spans, from the first ``look`` that finds an endpoint or a provider."""

    def __init__(
        self, settings: Settings, app_name: AppName, first_export: Callable[[], object]
    ) -> None:
        self._settings = settings
        self._app_name = app_name
        self._first_export = first_export
        self._task_spans: TaskSpans | None = None
        self._undo = ExitStack()
        self._refused = False
        self.provider: TraceProvider | None = None
        forksafe.add(self, ForkStep.SESSION)

    def look(self) -> bool:
        """Use the provider that is set, or set ours; tell whether it changed."""
        found, used = global_provider(), self.provider
        if found is not None and (used is None or used.provider is not found):
            self._use_of_app(found)
        elif found is None and used is None and self._settings.traces:
            ours = OwnTraceProvider(self._settings, self._app_name, self._first_export)
            ours.set()
            self._use(ours)
            if not ours.relays:
                self._warn_of_keep("spans don't go to an OTLP endpoint: set otlp_endpoint")
        return self.provider is not used

    def _use_of_app(self, provider: trace.TracerProvider) -> None:
        if isinstance(self.provider, OwnTraceProvider):
            self.provider.replace_by(provider)
        if self._settings.otlp:
            _log.info("taskobs: a TracerProvider is set: spans go where it sends them")
        self._warn_of_keep(
            "the app has set a TracerProvider, whose sampler decides: leave the provider to "
            "taskobs, or sample in a collector"
        )
        from taskobs.otel.app.provider import AppTraceProvider

        self._use(AppTraceProvider(provider, relay=self._settings.relay_providers))

    def _warn_of_keep(self, why: str) -> None:
        if self._settings.keep:
            _log.warning("taskobs: keep has no effect, as %s", why)

    def _use(self, provider: TraceProvider) -> None:
        self.provider = provider
        if self._task_spans is not None:
            self._task_spans.use(provider.provider)
        elif not is_instrumented():
            self._make_task_spans(provider)

    def _make_task_spans(self, provider: TraceProvider) -> None:
        spans = TaskSpans.start(
            tracer_provider=provider.provider,
            stock_attributes=self._settings.stock_attributes,
            rules=task_rules(self._settings.tasks),
            event_url=self._settings.event_url,
        )
        self._undo.callback(spans.stop)
        patch = InstrumentorPatch(spans, shared_task_signals().guard)
        self._undo.callback(patch.remove)
        patch.install()
        self._task_spans = spans

    @property
    def named_after_app(self) -> bool:
        """Whether the service has the name of the Celery app, as no setting names it."""
        resource = getattr(self.provider and self.provider.provider, "resource", None)
        return isinstance(resource, LateResource)

    def of_worker(self, *, relayed: bool) -> None:
        """Handle that this is a worker's process, before its first run and fork."""
        if self.provider is not None:
            self.provider.hold_runs()
        if self.provider is not None and not relayed:
            self.provider.prepare()

    def relayed(self) -> None:
        """Handle that spans go through a relay; ours have chosen ids already."""
        if self._task_spans is not None and self.provider is not None and not self.provider.ours:
            self._task_spans.choose_ids()

    def may_set(self, provider: trace.TracerProvider) -> bool:
        """Withdraw our provider in favour of the app's, unless a span of ours has started.

        Later, the change would split traces. So it is then refused, with a warning that names the
        remedy; OpenTelemetry's own warning about a second provider names none.
        """
        ours = self.provider
        if ours is None or not ours.ours or provider is ours.provider:
            return True
        if global_provider() is not ours.provider:
            return True
        if ours.replaceable:
            ours.withdraw()
            return True
        if not self._refused:
            self._refused = True
            _log.warning(
                "taskobs: a TracerProvider of the app's is not used, as spans have begun with that "
                "of taskobs: call trace.set_tracer_provider() before the first task is published "
                "or run, or before taskobs.init()"
            )
        return False

    def after_fork(self) -> None:
        """In a forked child: warn anew."""
        self._refused = False

    def stop(self, timeout: float) -> None:
        """Stop making spans; export our pending ones, within ``timeout`` seconds."""
        forksafe.remove(self)
        self._undo.close()
        provider, self.provider = self.provider, None
        self._task_spans = None
        if provider is not None:
            provider.withdraw()
            provider.stop(timeout)
