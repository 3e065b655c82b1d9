"""What the doctor makes of what became of its probe task."""

from __future__ import annotations

from typing import Any

import pytest

from taskobs.cli.doctor.checks.table import CHECKS
from taskobs.cli.doctor.evidence import Response
from taskobs.cli.doctor.finding import Status
from taskobs.relay.export.responses import ExportResult, ExportStatus
from tests.support.doctor import TRACE, TRACEPARENT, evidence, examine, fine, found, probed

BOTH = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
    "SENTRY_DSN": "http://key@localhost:9000/1",
}
PROBED = ("worker", "run", "headers", "publish_span", "run_span", "event", "one_trace", "cleaned")
RELAY: dict[str, Any] = {"exported": {"span": 1, "envelope": 1}}


def test_a_probe_that_went_well_is_fine() -> None:
    """Publish, run and event have arrived, in one trace."""
    for name in PROBED:
        fine(name, probed(BOTH))


def test_without_a_probe_nothing_is_claimed() -> None:
    """The broker is away, or I have asked for no probe: what it would tell is unknown."""
    for name in PROBED:
        assert examine(name, evidence(BOTH)).status is Status.UNKNOWN


def test_a_worker_that_does_not_start_is_found() -> None:
    """The app's code ends the worker at its start: its last lines are shown."""
    made = probed(run=None, ready=False, exit_code=1, log=["ImportError: no tables"])
    finding = found("worker", made)
    assert "ended with 1" in finding.what
    assert "ImportError: no tables" in finding.what
    assert finding.fix.startswith("celery -A shop worker")
    found("run", made)


def test_a_broker_that_refuses_the_probe_is_found() -> None:
    """The user of the broker may not declare queues."""
    made = probed(run=None, publish_error="AccessRefused: no write access")
    assert "AccessRefused" in found("run", made).what
    assert examine("publish_span", made).status is Status.UNKNOWN


def test_headers_that_a_transport_drops_are_found() -> None:
    """Something between publish and worker strips the headers of messages."""
    run: dict[str, Any] = {"headers": {}, "trace_id": "f" * 32, "sampled": True}
    made = probed(BOTH, run=run)
    finding = found("headers", made)
    assert "traceparent of the message did not reach the worker" in finding.what
    assert "transport" in finding.fix
    assert "`headers`" in found("one_trace", made).fix


def test_an_event_of_another_trace_is_found() -> None:
    """Something has taken over the trace of Sentry's events."""
    finding = found("one_trace", probed(BOTH, event={"trace_id": "a" * 32}))
    assert f"run {TRACE}" in finding.what
    assert f"event {'a' * 32}" in finding.what


def test_runs_that_a_rule_links_are_fine() -> None:
    """I have asked for it: runs are linked to their publish, in traces of their own."""
    run = {"headers": {"traceparent": TRACEPARENT}, "trace_id": "f" * 32, "sampled": True}
    made = probed(run=run)
    made.settings = evidence(BOTH, tasks={"*": {"link": True}}).settings
    fine("one_trace", made)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"publish_log": ["taskobs: span export failed, retrying: HTTP 401"]}, "HTTP 401"),
        ({"flushed": False}, "not sent in time"),
        ({"sent_headers": {}}, "no span"),
    ],
)
def test_a_publish_whose_span_is_not_sent_is_found(seen: dict[str, Any], said: str) -> None:
    """The process that publishes has a path of its own to the server."""
    assert said in found("publish_span", probed(**seen)).what


@pytest.mark.parametrize(
    ("relay", "said"),
    [
        ({"dropped": {"span": {"HTTP 401": 3}}}, "3 dropped: HTTP 401"),
        ({"failing": {"span": "no response (timed out)"}}, "no response (timed out)"),
        ({"exported": {}}, "has sent no span"),
    ],
)
def test_a_run_whose_span_is_not_sent_is_found(relay: dict[str, Any], said: str) -> None:
    """The worker's relay says what the server has said."""
    finding = found("run_span", probed(relay=relay))
    assert said in finding.what
    assert finding.fix == "mend what `traces` has found"


def test_a_run_that_is_not_sampled_is_found() -> None:
    """The worker's sampler, or a rule, leaves the run out."""
    run: dict[str, Any] = {"headers": {}, "trace_id": TRACE, "sampled": False}
    assert "`sampling`" in found("run_span", probed(run=run)).fix
    made = probed(run=run)
    made.provider = object()
    assert "ParentBased" in found("run_span", made).fix


def test_a_worker_without_a_relay_is_judged_by_its_log() -> None:
    """Each process sends its own: what failed is in the log."""
    fine("run_span", probed(relay=None))
    line = "taskobs: span export to http://localhost failed, retrying: refused"
    finding = found("run_span", probed(relay=None, log=[line]))
    assert "refused" in finding.what


def test_a_worker_that_sends_to_a_server_that_refuses_is_found() -> None:
    """Without a relay, Sentry's own client says nothing of what it drops."""
    made = probed(BOTH, relay=None)
    fine("event", made)
    refused = ExportResult(ExportStatus.DROP, "HTTP 403")
    made.responses.append(Response("errors", "http://localhost:9000/", refused))
    assert "accepts none" in found("event", made).what
    fine("run_span", made)


def test_an_event_that_is_refused_is_found() -> None:
    """The relay has posted it, and Sentry has said no."""
    relay = {"exported": {"span": 1}, "dropped": {"envelope": {"HTTP 403": 1}}}
    finding = found("event", probed(BOTH, relay=relay))
    assert "HTTP 403" in finding.what
    assert finding.fix == "mend what `errors` has found"


def test_an_event_that_is_dropped_is_found() -> None:
    """A before_send of mine drops all."""
    assert "before_send" in found("event", probed(BOTH, event=None)).fix
    assert fine("event", probed(event=None)).what == "no errors are sent"


def test_a_queue_that_is_left_is_found() -> None:
    """The broker went away in the middle."""
    assert "taskobs-doctor-" in found("cleaned", probed(queue_left="refused")).fix


def test_each_check_has_a_name_and_a_claim_of_its_own() -> None:
    """I read the table, and no two lines are the same."""
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert len({check.claim for check in CHECKS}) == len(CHECKS)
    assert len({check.examine for check in CHECKS}) == len(CHECKS)
