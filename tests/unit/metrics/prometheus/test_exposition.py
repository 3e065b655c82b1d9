"""What a scraper reads is what was given, in both formats."""

from __future__ import annotations

from typing import Any, Final

import pytest

pytest.importorskip("prometheus_client")  # the extra `prometheus`
from prometheus_client import parser
from prometheus_client.openmetrics import parser as open_parser

from taskobs.metrics.families import Distribution, Exemplar, Family, Sample
from taskobs.metrics.prometheus.exposition import render

PARSER: Final[Any] = parser  # neither of the two has complete types
OPEN_PARSER: Final[Any] = open_parser
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
QUEUE = {"celery.queue": 'odd "name"\nwith \\ in it'}
PLAIN_QUEUE = {"celery_queue": QUEUE["celery.queue"]}
TRACE = {"trace_id": "0af7651916cd43dd8448eb211c80319c"}
FAMILIES = [
    Family(
        name="celery.queue.oldest.age",
        kind="gauge",
        meaning="How old.",
        unit="s",
        samples=[Sample(QUEUE, 2.5)],
    ),
    Family(
        name="celery.task.published", kind="counter", meaning="How many.", samples=[Sample({}, 3)]
    ),
    Family(
        name="celery.task.duration",
        kind="histogram",
        meaning="How long.",
        unit="s",
        bounds=[0.5, 1],
        distributions=[Distribution(QUEUE, [1, 2, 4], 9.5, {1: Exemplar(TRACE, 0.75, 12.0)})],
    ),
]
BUCKETS = {"0.5": 1.0, "1.0": 3.0, "+Inf": 7.0}


def rendered(accept: str) -> tuple[str, str]:
    body, content_type = render(FAMILIES, accept)
    return body.decode(), content_type


def series(parser_of_format: Any, text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Give labels and value of each series, by its name."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in parser_of_format.text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.mark.parametrize("accept", ["", "text/plain", OPEN_METRICS])
def test_a_scraper_reads_what_was_given(accept: str) -> None:
    """I scrape in either format, and read the same names, labels and values."""
    text, content_type = rendered(accept)
    assert ("openmetrics" in content_type) == (accept == OPEN_METRICS)
    found = series(OPEN_PARSER if accept == OPEN_METRICS else PARSER, text)
    assert found["celery_queue_oldest_age_seconds"] == [(PLAIN_QUEUE, 2.5)]
    assert found["celery_task_published_total"] == [({}, 3.0)]
    buckets = {
        labels["le"]: value for labels, value in found["celery_task_duration_seconds_bucket"]
    }
    assert buckets == BUCKETS
    assert found["celery_task_duration_seconds_count"] == [(PLAIN_QUEUE, 7.0)]
    assert found["celery_task_duration_seconds_sum"] == [(PLAIN_QUEUE, 9.5)]


def of_app(name: str, **given: Any) -> Family:
    """Give what a task measures itself."""
    fields: dict[str, Any] = {"kind": "counter", "meaning": "", "scope": "shop", **given}
    return Family(name=name, **fields)


@pytest.mark.parametrize("accept", ["", OPEN_METRICS])
def test_names_of_the_apps_are_what_prometheus_takes(accept: str) -> None:
    """Tasks of mine measure under any names and attributes: a scrape is never refused for it."""
    unusual: dict[str, Any] = {"a.b": "1", "a_b": True, "le": "x", "9": 2, "": "e"}
    families = [
        of_app("orders_total", samples=[Sample(unusual, 1)]),
        of_app("orders", samples=[Sample({}, 2), Sample({}, 2)], scope="other", scope_version="3"),
        of_app("orders", kind="gauge", samples=[Sample({}, 7)]),
        of_app("stock", kind="updown", samples=[Sample({}, -7)]),
        of_app(
            "size",
            kind="histogram",
            bounds=[1],
            distributions=[Distribution(unusual, [1, 2], 3, {})],
        ),
        of_app(
            "size", kind="histogram", bounds=[2], distributions=[Distribution({}, [1, 2], 3, {})]
        ),
    ]
    body, _ = render(families, accept)
    found = series(OPEN_PARSER if accept else PARSER, body.decode())
    plain = {"a_b": "1;true", "le_": "x", "_9": "2", "_": "e", "otel_scope_name": "shop"}
    other = {"otel_scope_name": "other", "otel_scope_version": "3"}
    assert found["orders_total"] == [(plain, 1), (other, 2)]
    assert found["stock"] == [({"otel_scope_name": "shop"}, -7)]
    assert found["size_count"] == [(plain, 3)]


def test_exemplars_lead_to_traces() -> None:
    """I scrape as OpenMetrics, and a bucket leads to a trace; the older format can't say it."""
    text, _ = rendered(OPEN_METRICS)
    found = [
        sample.exemplar
        for family in OPEN_PARSER.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.exemplar is not None
    ]
    assert [(one.labels, one.value, float(one.timestamp)) for one in found] == [(TRACE, 0.75, 12)]
    assert TRACE["trace_id"] not in rendered("")[0]


def test_nothing_is_a_page_too() -> None:
    """I scrape before there is anything, and get an empty page, not an error."""
    assert render([])[0] == b""
