"""Runs the probe task: starts its worker, publishes it, and leaves nothing of it."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

from taskobs.cli.doctor.evidence import Evidence, Probe
from taskobs.cli.doctor.probe import publish
from taskobs.cli.doctor.probe.worker import ProbeWorker, probe_worker, remove_spool

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_QUEUE: Final = "taskobs-doctor-"
_IN_MEMORY: Final = "memory"
_FLUSH: Final = 5.0
_FLUSH_REFUSED: Final = 1.0
"""Seconds for what a server has just refused: it is not waited for again."""


def start_worker(stack: ExitStack, evidence: Evidence) -> ProbeWorker | None:
    """Start the probe's worker until the stack is closed, if there is a broker for it.

    One in memory has messages for this process alone.
    """
    broker = evidence.broker
    if broker is None or broker.problem is not None or broker.address == _IN_MEMORY:
        return None
    queue = f"{_QUEUE}{token_hex(4)}"
    stack.callback(_delete, evidence, queue)  # when the worker has stopped
    return stack.enter_context(probe_worker(evidence.name, queue, evidence.pool))


def run(evidence: Evidence, worker: ProbeWorker, span: ReadableSpan | None, timeout: float) -> None:
    """Publish the probe below a span, and note what becomes of it within ``timeout`` seconds."""
    found = evidence.probe = Probe()
    context = None if span is None else span.get_span_context()
    found.trace_id = "" if context is None else f"{context.trace_id:032x}"
    app, order = evidence.app, worker.order
    try:
        publish.publish(app, order, context, found)
        if found.publish_error is None:
            _wait(evidence, worker, found, timeout)
        _flush(evidence, found)
    finally:
        with _uninterrupted():
            worker.stop(found)
            publish.forget(app, order)


def _wait(evidence: Evidence, worker: ProbeWorker, found: Probe, timeout: float) -> None:
    event, patient = evidence.dsn is not None, not _is_refused(evidence)
    worker.wait(found, timeout, event=event, patient=patient)
    if found.run is not None and publish.has_results(evidence.app):
        found.stored = publish.is_stored(evidence.app, worker.order)


def _flush(evidence: Evidence, found: Probe) -> None:
    """Have this process send the publish's span, and note what it has said of that."""
    if evidence.session is not None:
        timeout = _FLUSH_REFUSED if _is_refused(evidence) else _FLUSH
        found.flushed = evidence.session.flush(timeout)
    found.publish_log = list(evidence.log)


def _is_refused(evidence: Evidence) -> bool:
    """Tell whether a server of spans, errors or log records has refused what it was asked."""
    signals = {one.signal for one in evidence.responses} - {"metrics"}
    return not all(map(evidence.accepted, signals))


def _delete(evidence: Evidence, queue: str) -> None:
    """Delete the queue, and what else has its name: the spool of the worker's relay."""
    with _uninterrupted():
        problem = publish.delete_queue(evidence.app, queue)
        if evidence.probe is not None:
            evidence.probe.queue_left = problem
        spool = evidence.settings.relay_spool if evidence.settings is not None else None
        if spool is not None:
            remove_spool(Path(spool), queue, evidence.probe)


@contextmanager
def _uninterrupted() -> Generator[None]:
    """Let a second Ctrl-C wait until nothing of the probe is left."""
    before: dict[int, Any] = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
