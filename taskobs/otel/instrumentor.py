"""``TaskInstrumentor``, which replaces OpenTelemetry's ``CeleryInstrumentor``."""

# The stock class keeps all that it has, and the one object of it, in private names.
# pyright: reportPrivateUsage=false

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any, ClassVar, Final

from opentelemetry.instrumentation.celery import CeleryInstrumentor

from taskobs import semconv
from taskobs.otel.task_spans import TaskSpans

_OPTIONS: Final = ("tracer_provider", "meter_provider", "use_span_links", "stock_attributes")


class TaskInstrumentor(CeleryInstrumentor):
    """Spans of publishes and runs, where ``CeleryInstrumentor`` is used: same calls, same scope.

    ``instrument(tracer_provider=..., meter_provider=..., use_span_links=...)`` and
    ``uninstrument()`` work as the stock class documents; ``stock_attributes=False`` leaves
    its attributes out. Not needed beside ``taskobs.init()``, which does the same and more.

    While it is active, ``CeleryInstrumentor()`` returns this object, so that Celery isn't
    instrumented twice; a stock one that was active before is inactive until ``uninstrument()``.
    """

    # The stock base keeps one object a class, under a name that subclasses inherit.
    _instance: ClassVar[Any] = None
    _spans: TaskSpans | None = None
    _former: Any = None
    _former_was_on = False

    def __new__(cls) -> TaskInstrumentor:  # noqa: PYI034  # `Self` needs Python 3.11
        """Return the one object of the class."""
        made: TaskInstrumentor = super().__new__(cls)
        return made

    def _instrument(self, **kwargs: Any) -> None:
        self._replace_stock()
        options = {name: kwargs[name] for name in _OPTIONS if name in kwargs}
        self._use_spans(TaskSpans.start(**options))

    def _use_spans(self, spans: TaskSpans) -> None:
        self._spans = spans
        self.metrics = {semconv.STOCK_HISTOGRAM: spans.histogram}

    def _uninstrument(self, **_: Any) -> None:
        if self._spans is not None:
            self._spans.stop()
            self._spans = None
        self._restore_stock()

    def _replace_stock(self) -> None:
        former = CeleryInstrumentor._instance  # noqa: SLF001  # the only place it is kept
        CeleryInstrumentor._instance = self  # noqa: SLF001
        if former is None or former is self:
            return
        self._former, self._former_was_on = former, former.is_instrumented_by_opentelemetry
        if self._former_was_on:
            former.uninstrument()
        # Code that holds the stock object must not start it beside this one.
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


def activate_for_session(spans: TaskSpans) -> bool:
    """Mark ``TaskInstrumentor()`` as instrumented, with ``spans``, if it isn't yet.

    Returns whether it wasn't.
    """
    ours = TaskInstrumentor()
    if ours.is_instrumented_by_opentelemetry:
        return False
    ours._replace_stock()  # noqa: SLF001  # of this module's own class, as what follows
    ours._use_spans(spans)  # noqa: SLF001
    ours._is_instrumented_by_opentelemetry = True  # noqa: SLF001
    return True


def deactivate_for_session(spans: TaskSpans) -> None:
    """Undo ``activate_for_session``, unless ``uninstrument()`` was called since."""
    ours = TaskInstrumentor()
    if ours._spans is spans:  # noqa: SLF001  # as above
        ours.uninstrument()
