from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from taskobs.internal import span_ids
from taskobs.otel.chosen_ids import ChosenIds
from tests.support.recording import CountingIds

TEXT = "0af7651916cd43dd8448eb211c80319cb7ad6b7169203331"


@contextmanager
def given(ids: str) -> Generator[None]:
    token = span_ids.NEXT.set(ids)
    yield
    span_ids.NEXT.reset(token)


def test_a_span_gets_the_ids_that_were_chosen() -> None:
    """The worker chooses, and the first span of the child has these ids; the next has others."""
    tracer = TracerProvider(id_generator=ChosenIds()).get_tracer("t")
    with given(TEXT):
        run, other = tracer.start_span("run"), tracer.start_span("other")
    after = tracer.start_span("after")
    address = run.get_span_context()
    assert f"{address.trace_id:032x}{address.span_id:016x}" == TEXT
    traces = {span.get_span_context().trace_id for span in (run, other, after)}
    assert len(traces) == 3


def test_a_span_with_a_parent_stays_in_its_trace() -> None:
    """The ids that were chosen are its own; those of its trace are the publish's."""
    tracer = TracerProvider(id_generator=ChosenIds()).get_tracer("t")
    parent = tracer.start_span("publish")
    with given(TEXT):
        run = tracer.start_span("run", trace.set_span_in_context(parent))
    address = run.get_span_context()
    assert address.trace_id == parent.get_span_context().trace_id
    assert f"{address.span_id:016x}" == TEXT[32:]


UNFIT = ["", TEXT[1:], TEXT + "0", "x" * 48, "0" * 48, TEXT.upper(), "0" * 32 + TEXT[32:]]


@pytest.mark.parametrize("text", [*UNFIT, TEXT[:32] + "0" * 16, TEXT + "\n"])
def test_what_is_no_ids_is_ignored(text: str) -> None:
    """Whatever a message brings, my spans have valid ids."""
    tracer = TracerProvider(id_generator=ChosenIds(CountingIds())).get_tracer("t")
    with given(text):
        address = tracer.start_span("run").get_span_context()
    assert (address.trace_id, address.span_id) == (1, 1)


def test_chosen_ids_are_new_each_time() -> None:
    """Each delivery of a message has ids of its own."""
    one, other = span_ids.choose(), span_ids.choose()
    assert span_ids.IDS.fullmatch(one)
    assert one != other
