"""How a run ended: what Celery's signals, states and exceptions make of its outcome."""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any, Final

from billiard import common, current_process
from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, Reject, Retry

from taskobs.celery.adapter.names import text_of
from taskobs.model import ExternalOutcome, Outcome, Run

_STATES: Final = {
    "FAILURE": Outcome.FAILED,
    "RETRY": Outcome.RETRIED,
    "REJECTED": Outcome.REJECTED,
    "IGNORED": Outcome.IGNORED,
}

PASSING: Final = (SoftTimeLimitExceeded,)
"""What no guard may swallow: it is meant for the task."""


def apply_exception(task: Any, run: Run, error: BaseException) -> None:
    """Note that an exception ended the run, and what that makes its outcome."""
    if isinstance(error, ExceptionWithTraceback):
        error = error.exc
    if isinstance(error, Retry):
        run.outcome = Outcome.RETRIED
        run.exception = error.exc if isinstance(error.exc, BaseException) else None
        run.reason = text_of(error)
    elif isinstance(error, Reject):
        run.outcome = Outcome.REJECTED
        run.requeued = bool(error.requeue)  # type: ignore[attr-defined]
        run.reason = _reason(error)
    elif isinstance(error, Ignore):
        run.outcome = Outcome.IGNORED
        run.reason = _reason(error)
    else:
        run.outcome, run.exception = Outcome.FAILED, error
        run.expected = isinstance(error, getattr(task, "throws", None) or ())


def apply_state(task: Any, run: Run, state: str | None, result: Any) -> None:
    """Note the end of a run of which the last signal is all that Celery sends.

    Of ``Reject`` and ``Ignore`` it gives the exception as the run's result.
    """
    outcome = Outcome.SUCCEEDED if state == "SUCCESS" else _STATES.get(state or "", Outcome.FAILED)
    if outcome in (Outcome.REJECTED, Outcome.IGNORED) and isinstance(result, BaseException):
        apply_exception(task, run, result)
    else:
        run.outcome = outcome


def error_of_refused_retry(reject: BaseException, retried_for: object) -> BaseException:
    """Return why a retry could not be published, with what it was to retry for as its cause."""
    reason: object = getattr(reject, "reason", None)
    error = reason if isinstance(reason, BaseException) else reject
    chained = error.__cause__ is not None or error.__context__ is retried_for
    if isinstance(retried_for, BaseException) and retried_for is not error and not chained:
        error.__cause__ = retried_for
    return error


def apply_external_outcome(run: Run, external: ExternalOutcome) -> None:
    """Note the end of a run that could not report it."""
    run.outcome, run.exception = external.outcome, external.error
    run.started, run.pid = external.started, external.pid or run.pid
    run.ran = external.started is not None and external.outcome is not Outcome.UNKNOWN
    run.signal, run.exit_code, run.reason = external.signal, external.exit_code, external.reason


def apply_process_death(run: Run, error: BaseException) -> bool:
    """Note that what ends the run ends its process, greenlet or thread too.

    Returns whether it is a failure that this process must report.
    """
    if run.eager:
        return False
    if type(error).__name__ == "GreenletExit":  # how greenlet pools carry out a revoke
        run.outcome, run.exception, run.reason = Outcome.REVOKED, None, "terminated"
        return False
    run.outcome = Outcome.LOST
    # A child of the prefork pool that is about to end can't be relied on to send anything: its
    # main process learns of the end from the pool, and knows the message.
    run.abandoned = current_process().name != "MainProcess" and _ends_child(error)
    return not run.abandoned


def _ends_child(error: BaseException) -> bool:
    """Tell whether what is no Exception ends the pool child whose task raises it.

    Before billiard 4.3 all of it does; 4.3.0 is taken for such a one.
    """
    terminated = getattr(common, "terminate_handler_fired", None)
    if terminated is None or isinstance(error, (SystemExit, KeyboardInterrupt)):
        return True
    return bool(terminated())


def _reason(error: BaseException) -> str | None:
    return text_of(error.args[0]) if error.args else None
