from __future__ import annotations

from typing import Any

import pytest
from celery.app.task import Context

from taskobs import semconv
from taskobs.celery.adapter import headers
from taskobs.celery.adapter.headers import queue_latency, texts_of
from taskobs.observers import propagation

PUBLISHED_AT = semconv.HEADER_PUBLISHED_AT


def test_headers_are_told_from_the_fields_of_celery() -> None:
    """What I send as a header is a header, and what Celery keeps beside it is none."""
    fields = {"id": "id-1", "task": "add", "argsrepr": "()", "mine": "x", "number": 3}
    assert texts_of(vars(Context(fields)), None) == {"mine": "x"}


def test_a_flat_header_goes_before_a_nested_one() -> None:
    """Headers arrive at one level or the other, and the outer one counts."""
    nested: dict[Any, Any] = {"mine": "nested", "other": "x", 3: "y", "bad": 4}
    assert texts_of({"mine": "flat"}, nested) == {"mine": "flat", "other": "x"}
    assert texts_of({}, ["mine"]) == {}


def test_names_of_strangers_fill_no_memory() -> None:
    """Somebody publishes with ever other headers, or with long names: each is read."""
    for number in range(1_000):
        name = f"{number}".ljust(10 if number % 2 else 3_000, "x")
        assert texts_of({"id": "1", name: "mine"}, None) == {name: "mine"}
    unusual: dict[Any, Any] = {"id": "1", 5: "five", "mine": "x"}
    assert texts_of(unusual, None)["mine"] == "x"
    kept = headers._names  # pyright: ignore[reportPrivateUsage]
    assert 0 < len(kept) <= 100
    assert max(sum(map(len, names)) for names in kept) <= 2_048


def test_what_can_not_be_encoded_is_no_header() -> None:
    """A lone surrogate in a header breaks no propagator."""
    assert texts_of({"mine": "caf\udce9", "other": "café"}, None) == {"other": "café"}


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "x", "nan", "inf", "-inf", "-5", "0", "1e999", "1" * 999),
        *(" 90 ", "90\n", "9_0", "٩٠", "+90", "9e1", ".5", "90."),
    ],
)
def test_a_publish_time_that_is_none_gives_no_latency(text: str | None) -> None:
    """A header that is no time tells nothing, instead of something wrong."""
    headers = {} if text is None else {PUBLISHED_AT: text}
    assert queue_latency(headers, None, 100.0) is None


@pytest.mark.parametrize(
    ("published", "eta", "latency"),
    [
        ("90", None, 10.0),
        ("110", None, 0.0),  # the clocks of two machines differ
        ("90", "1970-01-01T00:01:38+00:00", 2.0),
        ("90", "1970-01-01T00:01:38", 2.0),
        ("90", "1970-01-01T00:00:10+00:00", 10.0),
        ("90", "soon", None),
        ("90", 5, None),
    ],
)
def test_queue_latency(published: str, eta: object, latency: float | None) -> None:
    """Latency counts from the publish, or from the ETA if that is later, and is never negative."""
    assert queue_latency({PUBLISHED_AT: published}, eta, 100.0) == latency


@pytest.mark.parametrize(("published", "is_told"), [("1700000000", True), ("12", False)])
def test_a_wait_of_years_is_none(published: str, *, is_told: bool) -> None:
    """A message that says it was published in 1970 does not spoil my averages."""
    now = 1_700_000_000.0 + 30 * 86_400
    assert (queue_latency({PUBLISHED_AT: published}, None, now) is not None) is is_told


@pytest.mark.parametrize("runs", [118, 119, 128, 200])
def test_the_links_of_a_long_chord_arrive(runs: int) -> None:
    """The callback of a chord of any length is linked to as many runs as a span can hold."""
    address = f"00-{0xA:032x}-{0xB:016x}-01"
    text = propagation.write_links([(semconv.LINK_CHORD_HEADER, address)] * runs)
    for flat, nested in (({semconv.HEADER_LINKS: text}, {}), ({}, {semconv.HEADER_LINKS: text})):
        read = propagation.read_links(texts_of(flat, nested)[semconv.HEADER_LINKS])
        assert len(read) == min(runs, 128)


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage", semconv.HEADER_CHECK_IN])
def test_other_headers_are_no_longer_than_a_propagator_s(name: str) -> None:
    """A sender's megabyte of baggage is left alone, and so is all that is longer than W3C's."""
    for size, is_read in ((8_192, True), (8_193, False), (1_000_000, False)):
        assert (name in texts_of({name: "x" * size}, {})) is is_read


def test_links_are_no_longer_than_they_can_be() -> None:
    """A sender's megabyte of links is not looked at."""
    assert not texts_of({semconv.HEADER_LINKS: "x" * 16_385}, {})
