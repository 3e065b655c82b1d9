"""Checks of what became of the probe task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from taskobs.cli.doctor.evidence import Counted, Evidence, Probe
from taskobs.cli.doctor.finding import Finding, broken, ok, unknown

NO_PROBE: Final = "no probe task was published"
_NOT_RUN: Final = "the probe task did not run"
TRACEPARENT: Final = "traceparent"
SENTRY_TRACE: Final = "sentry-trace"
CARRIED: Final = (TRACEPARENT, "tracestate", "baggage", SENTRY_TRACE)
"""Headers of a message that carry a trace."""
_SEE_TRACES: Final = "mend what `traces` has found"
_SEE_ERRORS: Final = "mend what `errors` has found"


class _Sent(NamedTuple):
    """What a worker sends: how the relay counts it, and what is said of it."""

    signal: str
    kind: str
    words: str
    """In lines of the worker's log that say that it was not sent."""
    fix: str


_SPAN: Final = _Sent("traces", "span", "span export", _SEE_TRACES)
_EVENT: Final = _Sent("errors", "envelope", "Sentry", _SEE_ERRORS)


def worker(evidence: Evidence) -> Finding:
    """Look whether a worker of this app starts."""
    probe = evidence.probe
    if probe is None:
        return unknown(NO_PROBE)
    if probe.ready or probe.run is not None:
        return ok("a worker has started, on a queue of its own")
    how = f"ended with {probe.exit_code}" if probe.exit_code is not None else "was not ready"
    what = f"a worker of this app {how} after {probe.seconds:.0f} s{_last(probe)}"
    return broken(what, f"celery -A {evidence.name} worker -l INFO  # shows why")


def run(evidence: Evidence) -> Finding:
    """Look whether the probe task was published, and run."""
    probe = evidence.probe
    if probe is None:
        return unknown(NO_PROBE)
    if probe.publish_error is not None:
        what = f"the probe task can't be published: {probe.publish_error}"
        return broken(what, f"celery -A {evidence.name} call taskobs.doctor.none  # shows why")
    if probe.run is None:
        what = f"the worker did not run the probe task within {probe.seconds:.0f} s{_last(probe)}"
        return broken(what, "taskobs doctor --timeout 60 ...  # if this machine is busy")
    return ok(f"the probe task has run, in the trace {probe.trace_id}")


def headers(evidence: Evidence) -> Finding:
    """Look whether the broker's transport carries the headers of a message."""
    probe = evidence.probe
    if probe is None or probe.run is None:
        return unknown(_NOT_RUN)
    arrived: Mapping[str, str] = probe.run.get("headers") or {}
    sent = [name for name in CARRIED if name in probe.sent_headers]
    lost = [name for name in sent if name not in arrived]
    if lost:
        what = f"{', '.join(lost)} of the message did not reach the worker"
        fix = "use a transport that carries headers; remove what strips them on the way"
        return broken(what, fix)
    if not sent:
        return unknown("the message had no header of a trace")
    return ok(f"{', '.join(sent)} came through")


def publish_span(evidence: Evidence) -> Finding:
    """Look whether the span of the publish was sent by this process."""
    probe = evidence.probe
    if probe is None or probe.publish_error is not None or not evidence.spans:
        return unknown("no spans are sent" if probe and not evidence.spans else NO_PROBE)
    if TRACEPARENT not in probe.sent_headers:
        return broken("the publish has made no span", _fix_of_span(evidence))
    lines = [line for line in probe.publish_log if "span export" in line or "unsent" in line]
    if lines or not probe.flushed:
        said = lines[0] if lines else "it was not sent in time"
        return broken(f"the publish's span was not accepted: {said}", _SEE_TRACES)
    if evidence.said("traces") and not evidence.accepted("traces"):
        return broken("the publish's span was sent to a server that accepts none", _SEE_TRACES)
    return ok("the publish's span was sent by this process, and nothing was refused")


def run_span(evidence: Evidence) -> Finding:
    """Look whether the span of the run was sent from the worker."""
    probe = evidence.probe
    if probe is None or probe.run is None or not evidence.spans:
        return unknown("no spans are sent" if probe and probe.run else _NOT_RUN)
    if not probe.run.get("sampled"):
        return broken("the run has made no span that is recorded", _fix_of_span(evidence))
    return _sent(evidence, probe, _SPAN)


def event(evidence: Evidence) -> Finding:
    """Look whether the failure of the probe task was accepted by Sentry."""
    probe = evidence.probe
    if evidence.dsn is None:
        return ok("no errors are sent")
    if probe is None or probe.run is None:
        return unknown(_NOT_RUN)
    if probe.event is None:
        what = "the failure of the probe task has made no event"
        return broken(what, "look into before_send, and init(tasks=...), for what drops it")
    return _sent(evidence, probe, _EVENT)


def one_trace(evidence: Evidence) -> Finding:
    """Look whether publish, run and event are one trace."""
    probe = evidence.probe
    if probe is None or probe.run is None:
        return unknown(_NOT_RUN)
    ids = _trace_ids(probe, spans=evidence.spans)
    if len(ids) < 2:  # noqa: PLR2004  # one can't differ
        return unknown("there is nothing to compare: neither spans nor errors are sent")
    if len(set(ids.values())) > 1:
        listed = ", ".join(f"{name} {value}" for name, value in ids.items())
        if _links_runs(evidence):
            return ok(f"a rule links runs to their publish, in traces of their own: {listed}")
        what = f"they are not one trace: {listed}"
        return broken(what, "mend what `headers`, `propagator` or `sentry_tracing` has found")
    return ok(f"{', '.join(ids)} are one trace")


def cleaned(evidence: Evidence) -> Finding:
    """Look whether the private queue is gone again."""
    probe = evidence.probe
    if probe is None:
        return unknown(NO_PROBE)
    if probe.queue_left is not None:
        what = f"the private queue could not be deleted: {probe.queue_left}"
        return broken(what, "delete the queue whose name begins with taskobs-doctor-")
    return ok("nothing is left in the broker")


def _sent(evidence: Evidence, probe: Probe, sent: _Sent) -> Finding:
    """Judge by what the relay has counted; without one, by what the worker has logged."""
    lines = [line for line in probe.log if sent.words in line or "unsent" in line]
    if probe.relay is None:
        if lines:
            return broken(f"the worker says: {lines[0]}", sent.fix)
        if evidence.said(sent.signal) and not evidence.accepted(sent.signal):
            return broken("the worker has sent it to a server that accepts none", sent.fix)
        return ok("the worker has sent it, and nothing was refused")
    counted = Counted.read(probe.relay, sent.kind)
    refused = [f"{number} dropped: {why}" for why, number in counted.dropped.items()]
    if refused or counted.failing:
        said = lines[0] if lines else ", ".join(refused) or counted.failing
        return broken(f"the relay says: {said}", sent.fix)
    if not counted.exported:
        return broken(f"the relay has sent no {sent.kind}{_last(probe)}", sent.fix)
    return ok(f"the worker's relay has sent {counted.exported} {sent.kind}(s), all accepted")


def _trace_ids(probe: Probe, *, spans: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    if spans:
        found["publish"] = _of_traceparent(probe.sent_headers.get(TRACEPARENT, ""))
        found["run"] = str((probe.run or {}).get("trace_id") or "")
    if probe.event is not None:
        found["event"] = str(probe.event.get("trace_id") or "")
    if not spans and SENTRY_TRACE in probe.sent_headers:
        found["publish"] = probe.sent_headers[SENTRY_TRACE].partition("-")[0]
    return found


def _of_traceparent(text: str) -> str:
    parts = text.split("-")
    return parts[1] if len(parts) > 1 else ""


def _links_runs(evidence: Evidence) -> bool:
    rules = evidence.settings.tasks if evidence.settings is not None else None
    return any("link" in rule for rule in (rules or {}).values())


def _fix_of_span(evidence: Evidence) -> str:
    if evidence.provider is not None:
        return "let the app's TracerProvider sample what has a sampled parent: ParentBased(...)"
    return "mend what `sampling` or `init` has found, or the rule of init(tasks=...) for this task"


def _last(probe: Probe) -> str:
    return f": {probe.log[-1]}" if probe.log else ""
