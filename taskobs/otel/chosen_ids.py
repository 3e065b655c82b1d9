"""The ids of spans, and of those of runs that the worker's main process has chosen."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

from taskobs.internal import forksafe, span_ids
from taskobs.internal.forksafe import ForkStep
from taskobs.internal.span_ids import IDS, NEXT, TRACE_DIGITS


class ChosenIds(RandomIdGenerator):
    """Gives a span the ids that were chosen for it, and those of ``others`` to all others."""

    def __init__(self, others: IdGenerator | None = None) -> None:
        self.others = others or RandomIdGenerator()
        self.begun = False
        """Whether a span has begun in this process."""
        forksafe.add(self, ForkStep.EXPORT)

    def after_fork(self) -> None:
        """In a forked child: no span has begun here."""
        self.begun = False

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        chosen = NEXT.get()
        if chosen is not None and IDS.fullmatch(chosen):
            return int(chosen[:TRACE_DIGITS], 16)
        return self.others.generate_trace_id()

    def generate_span_id(self) -> int:
        """Return the id of a new span; the SDK asks for it last, also if it is not sampled."""
        self.begun = True
        chosen = NEXT.get()
        if chosen is not None:
            NEXT.set(None)  # the next span has other ids
            if IDS.fullmatch(chosen):
                return int(chosen[TRACE_DIGITS:], 16)
        return self.others.generate_span_id()

    def is_trace_id_random(self) -> bool:
        """Tell whether the last 56 bits of a trace id are random, as W3C's flag says."""
        # Releases of the SDK that don't know the flag have no such method, and don't ask.
        tell = getattr(self.others, "is_trace_id_random", None)
        return bool(tell is not None and tell())


class ChosenIdsOfTracer:
    """Has the spans of a tracer get chosen ids, of whichever provider of the SDK it is.

    The ids are chosen by the provider's own generator. ``remove`` undoes it.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer if isinstance(tracer, Tracer) else None
        self._former: IdGenerator | None = None
        if self._tracer is None:
            return
        found = self._tracer.id_generator
        if not isinstance(found, ChosenIds):
            self._former, self._tracer.id_generator = found, ChosenIds(found)
        others = found.others if isinstance(found, ChosenIds) else found
        span_ids.use(None if type(others) is RandomIdGenerator else others)

    def remove(self) -> None:
        """Have the tracer use its own generator alone again."""
        if self._tracer is not None:
            span_ids.use(None)
        if self._tracer is not None and self._former is not None:
            self._tracer.id_generator = self._former
