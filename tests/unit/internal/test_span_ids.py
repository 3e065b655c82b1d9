from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from taskobs.internal import span_ids
from taskobs.otel.chosen_ids import ChosenIds

TEXT = "0af7651916cd43dd8448eb211c80319cb7ad6b7169203331"


@contextmanager
def given(ids: span_ids.Ids | None) -> Generator[None]:
    token = span_ids.NEXT.set(ids)
    yield
    span_ids.NEXT.reset(token)


def test_a_span_gets_the_ids_that_were_chosen() -> None:
    """The worker chooses, and the first span of the child has these ids; the next has others."""
    chosen = span_ids.read(TEXT)
    assert chosen is not None
    tracer = TracerProvider(id_generator=ChosenIds()).get_tracer("t")
    with given(chosen):
        run, other = tracer.start_span("run"), tracer.start_span("other")
    after = tracer.start_span("after")
    address = run.get_span_context()
    assert (address.trace_id, address.span_id) == chosen
    traces = {span.get_span_context().trace_id for span in (run, other, after)}
    assert len(traces) == 3


def test_a_span_with_a_parent_stays_in_its_trace() -> None:
    tracer = TracerProvider(id_generator=ChosenIds()).get_tracer("t")
    parent = tracer.start_span("publish")
    with given(span_ids.read(TEXT)):
        run = tracer.start_span("run", trace.set_span_in_context(parent))
    address = run.get_span_context()
    assert address.trace_id == parent.get_span_context().trace_id
    assert f"{address.span_id:016x}" == TEXT[32:]


@pytest.mark.parametrize("text", [None, "", TEXT[1:], TEXT + "0", "x" * 48, "0" * 48, TEXT.upper()])
def test_what_is_no_ids_is_ignored(text: str | None) -> None:
    assert span_ids.read(text) is None


def test_chosen_ids_are_read_again_and_new_each_time() -> None:
    one, other = span_ids.read(span_ids.choose()), span_ids.read(span_ids.choose())
    assert one
    assert other
    assert one != other
