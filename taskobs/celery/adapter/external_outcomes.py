"""How a delivery ended that its run could not report: what a worker's main process makes of it."""

from __future__ import annotations

import re
from signal import Signals
from typing import Any, Final

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from kombu.exceptions import ContentDisallowed, DecodeError

from taskobs.celery import _compat
from taskobs.celery._types import WorkerRequest
from taskobs.model import ExternalOutcome, Outcome

# As billiard words it: Worker exited prematurely: signal 9 (SIGKILL) Job: 3.
_SIGNAL: Final = re.compile(r"\bsignal (\d+)")
_EXIT_CODE: Final = re.compile(r"\bexitcode (-?\d+)")
_UNDECODABLE: Final = (DecodeError, ContentDisallowed)


def lost(request: WorkerRequest | None, error: BaseException) -> ExternalOutcome:
    """Return the end of a run whose process died with it; its request may not be known."""
    text = str(error)
    signum, code = _SIGNAL.search(text), _EXIT_CODE.search(text)
    return ExternalOutcome(
        outcome=Outcome.LOST,
        error=error,
        started=None if request is None else request.time_start,
        pid=None if request is None else request.worker_pid,
        signal=_signal_name(signum.group(1)) if signum else None,
        exit_code=int(code.group(1)) if code else None,
    )


def pool_failure(request: WorkerRequest, error: BaseException) -> ExternalOutcome | None:
    """Return the end of a run that failed outside of the task; None if others report it."""
    if isinstance(error, _UNDECODABLE):
        return ExternalOutcome(outcome=Outcome.UNKNOWN, error=error, started=request.time_start)
    if isinstance(error, Terminated):
        return None  # announced as revoked or cancelled
    if _compat.was_ended(request):
        return None
    if isinstance(error, SystemExit):
        death = WorkerLostError(f"Worker exited prematurely: exitcode {error.code}")
        return lost(request, death)
    if isinstance(error, (WorkerLostError, TimeLimitExceeded, KeyboardInterrupt)):
        return lost(request, error)
    return None  # the child goes on, and has reported it


def cancelled(request: WorkerRequest, *, again: bool) -> ExternalOutcome:
    """Return the end of a run that Celery ends; ``again`` says that its message goes back."""
    return ExternalOutcome(
        outcome=Outcome.RETRIED if again else Outcome.LOST,
        started=request.time_start,
        pid=request.worker_pid,
        reason="cancelled by Celery",
    )


def revoked(
    request: WorkerRequest, reason: Any, terminated: Any, signum: Any, expired: Any
) -> ExternalOutcome:
    """Return the end of a request that was revoked or has expired, before its run or during it."""
    name = _signal_name(signum) if terminated else None
    return ExternalOutcome(
        outcome=Outcome.EXPIRED if expired else Outcome.REVOKED,
        started=request.time_start if terminated else None,
        pid=request.worker_pid if terminated else None,
        signal=name,
        reason=str(reason),
    )


def _signal_name(signum: Any) -> str | None:
    found = re.search(r"\d+", repr(signum))  # str() of a Signals has no number on Python 3.10
    try:
        return Signals(int(found.group())).name if found else None
    except ValueError:
        return str(signum)
