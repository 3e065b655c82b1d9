"""The instrumentor that takes the place of OpenTelemetry's own for Celery."""

# The stock class keeps all that it has, and the one object of it, in private names.
# pyright: reportPrivateUsage=false

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any, ClassVar, cast

from opentelemetry import metrics, trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.celery.version import __version__ as stock_version

from taskobs import names
from taskobs.adapter import PASSING
from taskobs.guard import Guard
from taskobs.lifecycle import Lifecycle
from taskobs.observers.describing import LateAttributes
from taskobs.observers.spans import SpanObserver

_lifecycle: Lifecycle | None = None


def shared_lifecycle() -> Lifecycle:
    """Return this process's one lifecycle: whoever observes, Celery is connected to once."""
    global _lifecycle  # noqa: PLW0603  # one Celery in a process, so one connection to it
    if _lifecycle is None:
        _lifecycle = Lifecycle(Guard(passing=PASSING))
    return _lifecycle


class TaskInstrumentor(CeleryInstrumentor):
    """Spans of publishes and runs, where ``CeleryInstrumentor`` is used: same calls, same scope.

    ``instrument(tracer_provider=..., meter_provider=..., use_span_links=...)`` and
    ``uninstrument()`` work as the stock class documents; ``stock_attributes=False`` leaves
    its attributes out. Not needed beside ``taskobs.init()``, which does the same and more.

    While it is in place, ``CeleryInstrumentor()`` is this object, so that nobody instruments
    a second time; a stock one that was active before steps back until ``uninstrument()``.
    """

    # The stock base keeps one object a class, under a name that subclasses inherit.
    _instance: ClassVar[Any] = None
    _observer: SpanObserver | None = None
    _late: LateAttributes | None = None
    _former: Any = None
    _former_was_on = False

    def __new__(cls) -> TaskInstrumentor:  # noqa: PYI034  # `Self` needs Python 3.11
        """Return the one object of the class."""
        made: TaskInstrumentor = super().__new__(cls)
        return made

    def _instrument(self, **kwargs: Any) -> None:
        self._replace_stock()
        tracer = trace.get_tracer(
            names.STOCK_SCOPE,
            stock_version,
            kwargs.get("tracer_provider"),
            schema_url=names.STOCK_SCHEMA_URL,
        )
        meter = metrics.get_meter(
            names.STOCK_SCOPE,
            stock_version,
            kwargs.get("meter_provider"),
            schema_url=names.STOCK_SCHEMA_URL,
        )
        self.create_celery_metrics(meter)
        self._late = LateAttributes.install(tracer)
        self._observer = SpanObserver(
            tracer,
            cast("dict[str, metrics.Histogram]", self.metrics)[names.STOCK_HISTOGRAM],
            stock_attributes=kwargs.get("stock_attributes", True),
            use_span_links=kwargs.get("use_span_links", False),
            late=self._late,
        )
        shared_lifecycle().attach(self._observer, first=True)

    def _uninstrument(self, **_: Any) -> None:
        if self._observer is not None:
            shared_lifecycle().detach(self._observer)
            self._observer = None
        if self._late is not None:
            self._late.remove()
            self._late = None
        self._restore_stock()

    def _replace_stock(self) -> None:
        former = CeleryInstrumentor._instance  # noqa: SLF001  # the only place it is kept
        CeleryInstrumentor._instance = self  # noqa: SLF001
        if former is None or former is self:
            return
        self._former, self._former_was_on = former, former.is_instrumented_by_opentelemetry
        if self._former_was_on:
            former.uninstrument()
        # Whoever holds it must not start it beside us.
        former._is_instrumented_by_opentelemetry = True  # noqa: SLF001

    def _restore_stock(self) -> None:
        former, self._former = self._former, None
        if CeleryInstrumentor._instance is self:  # noqa: SLF001
            CeleryInstrumentor._instance = former  # noqa: SLF001
        if former is None or not former.is_instrumented_by_opentelemetry:
            return
        former._is_instrumented_by_opentelemetry = False  # noqa: SLF001
        if self._former_was_on:
            tracer, stock_metrics = former._tracer, former.metrics  # noqa: SLF001
            links = getattr(former, "_use_span_links", False)  # older releases have no such setting
            former.instrument(skip_dep_check=True, use_span_links=links)
            former._tracer, former.metrics = tracer, stock_metrics  # noqa: SLF001
