"""``TaskInstrumentor``, which replaces OpenTelemetry's ``CeleryInstrumentor``."""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any, ClassVar, Final

from opentelemetry.instrumentation.celery import CeleryInstrumentor

from taskobs import semconv
from taskobs.internal.private_names import warn_of_missing
from taskobs.otel import _sdk_compat
from taskobs.otel.task_spans import TaskSpans

_OPTIONS: Final = ("tracer_provider", "meter_provider", "use_span_links", "stock_attributes")
_SPANS: Final = "taskobs_spans"
"""The option of ``instrument()`` by which a session gives the spans that it has started."""


class TaskInstrumentor(CeleryInstrumentor):
    """Spans of publishes and runs, where ``CeleryInstrumentor`` is used: same calls, same scope.

    ``instrument(tracer_provider=..., meter_provider=..., use_span_links=...)`` and
    ``uninstrument()`` work as the stock class documents; ``stock_attributes=False`` leaves
    its attributes out. Not needed beside ``taskobs.init()``, which does the same and more.

    While it is active, ``CeleryInstrumentor()`` returns this object, so that Celery isn't
    instrumented twice; a stock one that was active before is inactive until ``uninstrument()``.
    """

    _only: ClassVar[TaskInstrumentor | None] = None
    _spans: TaskSpans | None = None
    _former: Any = None
    _former_was_on = False
    _former_is_blocked = False

    def __new__(cls) -> TaskInstrumentor:  # noqa: PYI034  # `Self` needs Python 3.11
        """Return the one object of the class.

        The stock base would return the object of the stock class, which subclasses inherit.
        """
        if cls._only is None:
            cls._only = object.__new__(cls)
        return cls._only

    def _instrument(self, **kwargs: Any) -> None:
        warn_of_missing(_sdk_compat.NAMES)
        self._replace_stock()
        options = {name: kwargs[name] for name in _OPTIONS if name in kwargs}
        spans = self._spans = kwargs.get(_SPANS) or TaskSpans.start(**options)
        self.metrics = {semconv.STOCK_HISTOGRAM: spans.histogram}

    def _uninstrument(self, **_: Any) -> None:
        if self._spans is not None:
            self._spans.stop()
            self._spans = None
        self._restore_stock()

    def _replace_stock(self) -> None:
        former = _sdk_compat.instance_of(CeleryInstrumentor)
        _sdk_compat.set_instance(CeleryInstrumentor, self)
        if former is None or former is self:
            return
        self._former, self._former_was_on = former, former.is_instrumented_by_opentelemetry
        if self._former_was_on:
            former.uninstrument()
        # Code that holds the stock object must not start it beside this one.
        self._former_is_blocked = _sdk_compat.block(former)

    def _restore_stock(self) -> None:
        former, self._former = self._former, None
        if _sdk_compat.instance_of(CeleryInstrumentor) is self:
            _sdk_compat.set_instance(CeleryInstrumentor, former)
        if former is None:
            return
        is_ours = not self._former_is_blocked or _sdk_compat.unblock(former)
        if is_ours and self._former_was_on and not former.is_instrumented_by_opentelemetry:
            _sdk_compat.instrument_again(former)


def activate_for_session(spans: TaskSpans) -> bool:
    """Mark ``TaskInstrumentor()`` as instrumented, with ``spans``, if it isn't yet.

    Returns whether it wasn't.
    """
    ours = TaskInstrumentor()
    if ours.is_instrumented_by_opentelemetry:
        return False
    ours.instrument(skip_dep_check=True, **{_SPANS: spans})
    return True


def deactivate_for_session(spans: TaskSpans) -> None:
    """Undo ``activate_for_session``, unless ``uninstrument()`` was called since."""
    ours = TaskInstrumentor()
    if ours._spans is spans:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # of this module's own class
        ours.uninstrument()
