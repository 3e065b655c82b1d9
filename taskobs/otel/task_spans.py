"""Makes the spans of tasks, under the scope name of OpenTelemetry's Celery instrumentor."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from opentelemetry import metrics, trace
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.trace import TracerProvider

from taskobs import semconv
from taskobs.celery.adapter.outcomes import PASSING
from taskobs.celery.signals import TaskSignals
from taskobs.config.task_rules import TaskRules
from taskobs.internal.guard import Guard
from taskobs.observers.propagation import HeaderPropagator
from taskobs.observers.spans import SpanObserver
from taskobs.otel._sdk_compat import parts_of, set_unchecked
from taskobs.otel.task_tracers import TaskTracers

_STOCK: Final = "opentelemetry-instrumentation-celery"


@cache
def shared_task_signals() -> TaskSignals:
    """Return this process's only ``TaskSignals``: Celery's signals are connected once."""
    return TaskSignals(Guard(passing=PASSING))


@cache
def stock_version() -> str:
    """Return the version that the stock instrumentor writes into its scope."""
    try:
        return version(_STOCK)
    except PackageNotFoundError:  # the app is bundled without its packages' metadata
        from opentelemetry.instrumentation.celery.version import __version__

        return __version__


class TaskSpans:
    """A span for each publish and each run, and the stock histogram, until ``stop()``."""

    def __init__(
        self,
        observer: SpanObserver,
        histogram: Histogram,
        tracers: TaskTracers,
    ) -> None:
        self.histogram = histogram
        self._observer = observer
        self._tracers = tracers

    @classmethod
    def start(  # noqa: PLR0913  # one keyword a choice
        cls,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        stock_attributes: bool = True,
        use_span_links: bool = False,
        rules: TaskRules | None = None,
        event_url: str | None = None,
    ) -> TaskSpans:
        """Start; a provider that isn't given is the process's global one."""
        scope = (semconv.STOCK_SCOPE, stock_version())
        meter = metrics.get_meter(*scope, meter_provider, schema_url=semconv.STOCK_SCHEMA_URL)
        histogram = meter.create_histogram(
            semconv.STOCK_HISTOGRAM, "seconds", "The time it took to run the task."
        )
        tracers = TaskTracers(tracer_of(tracer_provider), rules, link=use_span_links)
        observer = SpanObserver(
            tracers.default,
            histogram,
            by_task=tracers.by_task,
            stock_attributes=stock_attributes,
            propagator=HeaderPropagator(parts_of),
            event_url=event_url,
            set_unchecked=set_unchecked,
        )
        shared_task_signals().attach(observer, first=True)
        return cls(observer, histogram, tracers)

    def use(self, tracer_provider: TracerProvider) -> None:
        """Use another provider for new spans; open spans stay with the former one."""
        self._tracers.remove()
        tracers = self._tracers = self._tracers.with_tracer(tracer_of(tracer_provider))
        self._observer.use(tracers.default, tracers.by_task)

    def choose_ids(self) -> None:
        """Have runs get the ids that the worker's main process chooses for them."""
        self._tracers.choose_ids()

    def stop(self) -> None:
        """Make no more spans."""
        shared_task_signals().detach(self._observer)
        self._tracers.remove()


def tracer_of(provider: TracerProvider | None) -> trace.Tracer:
    """Return the tracer of tasks' spans; without a provider, that of the global one."""
    return trace.get_tracer(
        semconv.STOCK_SCOPE, stock_version(), provider, schema_url=semconv.STOCK_SCHEMA_URL
    )
