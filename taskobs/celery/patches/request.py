"""What only the worker itself sees: runs whose process died, and messages that never ran.

Celery's signals tell too little of these (a hard time limit twice, a lost child without its
request), so the request class that the worker makes for each task is extended: its callbacks
come once per delivery, on every pool, with the message's headers at hand.
"""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from signal import Signals
from typing import Any, Final, Protocol

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import signals
from celery.app.task import Context
from celery.exceptions import NotRegistered
from celery.worker import strategy
from celery.worker.consumer import Consumer
from kombu.exceptions import ContentDisallowed, DecodeError

from taskobs import semconv
from taskobs.internal import span_ids
from taskobs.internal.wrapping import Patches
from taskobs.model import ExternalOutcome, Outcome

_UID: Final = "taskobs.supervision."
# As billiard words it: Worker exited prematurely: signal 9 (SIGKILL) Job: 3.
_SIGNAL: Final = re.compile(r"\bsignal (\d+)")
_EXIT_CODE: Final = re.compile(r"\bexitcode (-?\d+)")
_UNDECODABLE: Final = (DecodeError, ContentDisallowed)
_NAME_CHARS: Final = 200


class Report(Protocol):
    """Where it is reported to."""

    def __call__(self, task: Any, request: Any, external: ExternalOutcome) -> None:
        """Take the end of one delivery of a task."""


@dataclass(frozen=True, slots=True)
class UntrustedTask:
    """Stands for a task that this worker does not have: a name, from whoever sent it."""

    name: str
    app: Any
    throws: tuple[type[BaseException], ...] = ()
    backend: Any = None


class RequestPatch:
    """Extends the worker's request class, and listens for messages that are no runs."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._on = False
        self._wrappers = Patches()

    def install(self) -> None:
        """Watch the requests of workers that start from now on."""
        self._on = True
        self._wrappers.wrap(strategy, "create_request_cls", self._create_request_class)
        self._wrappers.wrap(Consumer, "on_decode_error", self._decode_failed)
        signals.task_unknown.connect(self._unknown, weak=False, dispatch_uid=_UID + "unknown")
        signals.task_rejected.connect(self._rejected, weak=False, dispatch_uid=_UID + "rejected")

    def remove(self) -> None:
        """Watch no more; classes that a running worker has made stay, and report nothing."""
        self._on = False
        self._wrappers.remove()
        signals.task_unknown.disconnect(dispatch_uid=_UID + "unknown")
        signals.task_rejected.disconnect(dispatch_uid=_UID + "rejected")

    def _create_request_class(
        self, create: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        pool = args[2] if len(args) > 2 else kwargs["pool"]  # noqa: PLR2004  # as Celery has it
        return _watched(create(*args, **kwargs), self._ended, inline=not pool.uses_semaphore)

    def _ended(self, request: Any, external: ExternalOutcome) -> None:
        if self._on:
            context = Context(request.request_dict, hostname=request.hostname)
            self._report(request.task, context, external)

    # Messages that are no runs.

    def _decode_failed(
        self, handle: Callable[..., Any], consumer: Any, args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        message, error = [*args, None, None][:2]
        self._report_untrusted(consumer, message, error)
        return handle(*args, **kwargs)

    def _unknown(self, *, sender: Any, message: Any, name: Any, **_: Any) -> None:
        # Celery's own exception is a KeyError of the name; NotRegistered says what it means.
        self._report_untrusted(sender, message, NotRegistered(name))

    def _rejected(self, *, sender: Any, message: Any, exc: Any = None, **_: Any) -> None:
        self._report_untrusted(sender, message, exc or ValueError("not a message of a task"))

    def _report_untrusted(self, consumer: Any, message: Any, error: BaseException | None) -> None:
        headers = message.headers if isinstance(getattr(message, "headers", None), dict) else {}
        body = _decoded(message) if "task" not in headers else {}
        known = headers if "task" in headers else body
        context = Context(
            {key: value for key, value in headers.items() if isinstance(key, str)}
            | {semconv.HEADER_RUN_SPAN: ""},
            id=_short(known.get("id")),
            delivery_info=getattr(message, "delivery_info", None) or {},
            hostname=getattr(consumer, "hostname", None),
        )
        task = UntrustedTask(_short(known.get("task")) or "unknown", consumer.app)
        self._report(task, context, ExternalOutcome(outcome=Outcome.UNKNOWN, error=error))


def _decoded(message: Any) -> dict[str, Any]:
    """Return the body of a message in protocol 1, which has the task's name."""
    try:
        payload = message.payload
    except Exception:  # noqa: BLE001  # it may be anything
        return {}
    return payload if isinstance(payload, dict) else {}


def _short(value: Any) -> str:
    return str(value)[:_NAME_CHARS] if isinstance(value, (str, int)) else ""


class _Chosen:
    """Chooses the ids of the run's span: for the child, and for who tells of its end."""

    _taskobs_inline: bool
    _request_dict: dict[str, Any]

    def execute_using_pool(self, pool: Any, **kwargs: Any) -> Any:
        # Ids that came with the message are a stranger's.
        self._request_dict[semconv.HEADER_RUN_SPAN] = (
            "" if self._taskobs_inline else span_ids.choose()
        )
        following: Any = super()
        return following.execute_using_pool(pool, **kwargs)


class _Ended:
    """Tells of runs that ended with their child: it died, or Celery has ended it."""

    _taskobs_tell: Callable[[ExternalOutcome | None], None]
    _taskobs_succeeded = False
    _taskobs_outcome: ExternalOutcome | None = None
    acknowledged: bool

    def on_failure(
        self,
        exc_info: Any,
        send_failed_event: Any = True,  # noqa: FBT002  # as Celery has it
        return_ok: Any = None,
    ) -> Any:
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        # With return_ok it is the task's own failure, which the run has reported.
        self._taskobs_outcome = None if return_ok else _pool_failure(self, error)
        following: Any = super()
        asks = isinstance(error, WorkerLostError) and hasattr(following, "_success_was_stored")
        if not asks:  # tell before Celery stores the result, which may take long
            self._taskobs_tell(self._taskobs_outcome)
        try:
            return following.on_failure(
                exc_info, send_failed_event=send_failed_event, return_ok=return_ok
            )
        finally:
            if not self._taskobs_succeeded:
                self._taskobs_tell(self._taskobs_outcome)

    def _success_was_stored(self) -> Any:
        # Celery 5.7 asks this of a run whose child died, and takes it for what it has stored. The
        # child has told of it; one that died just before, in `on_success`, leaves it to the relay.
        following: Any = super()
        stored = following._success_was_stored()  # noqa: SLF001  # our own
        self._taskobs_succeeded = bool(stored)
        if not stored:
            self._taskobs_tell(self._taskobs_outcome)
        return stored

    def _announce_cancelled(self, **kwargs: Any) -> Any:
        # A worker that stops cold speaks of a retry also where the message was acknowledged.
        again = kwargs.get("emit_retry", True) and not self.acknowledged
        self._taskobs_tell(_cancelled(self, again=again))
        following: Any = super()
        return following._announce_cancelled(**kwargs)  # noqa: SLF001  # our own


def _watched(
    base: type[Any], ended: Callable[[Any, ExternalOutcome], None], *, inline: bool
) -> type[Any]:
    """Extend a request class by what is told of each delivery that a child can't tell.

    ``inline`` says that the pool (solo, threads, greenlets) runs tasks in this very process.
    """

    class WatchedRequest(_Ended, _Chosen, base):  # type: ignore[misc]  # made at run time
        _taskobs_inline = inline
        _taskobs_told = False

        def on_accepted(self, pid: Any, time_accepted: Any) -> None:
            try:
                super().on_accepted(pid, time_accepted)
            except NotImplementedError:
                # Terminated while it waited for a thread: Celery can't, and drops the run.
                external = _revoked(
                    self, "terminated", terminated=False, signum=None, expired=False
                )
                self._taskobs_tell(external, ran=False)
                raise

        def on_timeout(self, soft: Any, timeout: Any) -> None:
            if not soft:
                self._taskobs_tell(_lost(self, TimeLimitExceeded(timeout)))
            super().on_timeout(soft, timeout)

        def _announce_revoked(self, reason: Any, terminated: Any, signum: Any, expired: Any) -> Any:
            self._taskobs_tell(_revoked(self, reason, terminated, signum, expired))
            return super()._announce_revoked(reason, terminated, signum, expired)

        def _taskobs_tell(self, external: ExternalOutcome | None, *, ran: bool = True) -> None:
            here = inline and ran and self.time_start  # the run tells for itself
            if external is None or here or self._taskobs_told:
                return
            self._taskobs_told = True
            ended(self, external)

    return WatchedRequest


def _lost(request: Any, error: BaseException) -> ExternalOutcome:
    text = str(error)
    signum, code = _SIGNAL.search(text), _EXIT_CODE.search(text)
    return ExternalOutcome(
        outcome=Outcome.LOST,
        error=error,
        started=request.time_start,
        pid=request.worker_pid,
        signal=_signal_name(signum.group(1)) if signum else None,
        exit_code=int(code.group(1)) if code else None,
    )


def _pool_failure(request: Any, error: BaseException) -> ExternalOutcome | None:
    """Give the end of a run that failed outside of the task; None if that is told by others."""
    if isinstance(error, _UNDECODABLE):
        return ExternalOutcome(outcome=Outcome.UNKNOWN, error=error, started=request.time_start)
    if isinstance(error, Terminated):
        return None  # announced as revoked or cancelled
    if request._already_revoked or getattr(request, "_already_cancelled", False):  # noqa: SLF001  # Celery's
        return None
    if isinstance(error, SystemExit):
        lost = WorkerLostError(f"Worker exited prematurely: exitcode {error.code}")
        return _lost(request, lost)
    if isinstance(error, (WorkerLostError, TimeLimitExceeded, KeyboardInterrupt)):
        return _lost(request, error)
    return None  # the child goes on, and has told


def _cancelled(request: Any, *, again: bool) -> ExternalOutcome:
    """Give the end of a run that Celery ends; ``again`` says that its message goes back."""
    return ExternalOutcome(
        outcome=Outcome.RETRIED if again else Outcome.LOST,
        started=request.time_start,
        pid=request.worker_pid,
        reason="cancelled by Celery",
    )


def _revoked(
    request: Any, reason: Any, terminated: Any, signum: Any, expired: Any
) -> ExternalOutcome:
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
