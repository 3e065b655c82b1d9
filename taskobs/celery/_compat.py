"""Private names of Celery, kombu and billiard: the only module that uses them.

Each name is declared in ``NAMES``, with what is done without it. Functions here fall back by
themselves, so their callers need no check.
"""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# ruff: noqa: SLF001

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from taskobs.internal.private_names import PrivateName

if TYPE_CHECKING:  # `init()` imports this module in each process
    from taskobs.celery._types import App, WorkerRequest

_REQUEST: Final = "celery.worker.request"
_FALLBACK: Final = "default"
"""The name of the app that Celery makes where a process uses one and has none."""
_CURRENT_APP: Final = PrivateName(
    package="celery",
    module="celery._state",
    path="_tls",
    use="the service is not named after the app, unless it is the process's default one",
)
_APPS: Final = PrivateName(
    package="celery",
    module="celery._state",
    path="_apps",
    use="nothing is said where several apps of a process share the name of a service",
)
_CRONTAB_FIELDS: Final = tuple(
    PrivateName(
        package="celery",
        module="celery.schedules",
        path=f"crontab.{name}",
        use="a crontab is shown with all of its values in the place of what was written",
        of_instances=True,
    )
    for name in (
        *("_orig_minute", "_orig_hour"),
        *("_orig_day_of_month", "_orig_month_of_year", "_orig_day_of_week"),
    )
)
_ANNOUNCE_REVOKED: Final = PrivateName(
    package="celery",
    module=_REQUEST,
    path="Request._announce_revoked",
    use="revoked and expired tasks are reported after the result backend has stored that",
)
_ANNOUNCE_CANCELLED: Final = PrivateName(
    package="celery",
    module=_REQUEST,
    path="Request._announce_cancelled",
    use="runs that Celery cancels are reported as lost",
)
_ALREADY_REVOKED: Final = PrivateName(
    package="celery",
    module=_REQUEST,
    path="Request._already_revoked",
    use="a run that is revoked while it runs may be reported as lost",
)
_ALREADY_CANCELLED: Final = PrivateName(
    package="celery",
    module=_REQUEST,
    path="Request._already_cancelled",
    use="a run that Celery cancels may be reported as lost",
)
_SUCCESS_STORED: Final = PrivateName(
    package="celery",
    module=_REQUEST,
    path="Request._success_was_stored",
    use="a run that had succeeded when its process died is reported as lost",
    since="5.7",
)
_SET_ONCE: Final = PrivateName(
    package="celery",
    module="celery.backends.redis",
    path="RedisBackend._set",
    use="runs of a chord's header may wait for Redis during an outage",
)

_SIZE: Final = PrivateName(
    package="kombu",
    module="kombu.transport.virtual.base",
    path="Channel._size",
    use="the monitor can't tell the length of queues, but for RabbitMQ's and Redis'",
)
_DELETE: Final = PrivateName(
    package="kombu",
    module="kombu.transport.virtual.base",
    path="Channel._delete",
    use="the doctor leaves its queue in SQS, and in others where queues are not lists of messages",
)
_TIMER_ENTRIES: Final = PrivateName(
    package="kombu",
    module="kombu.asynchronous.timer",
    path="Timer._queue",
    use="tasks that wait for their ETA are not counted",
    of_instances=True,
)
_POOL_PROCESSES: Final = PrivateName(
    package="billiard",
    module="billiard.pool",
    path="Pool._pool",
    use="the memory of pool processes is not measured",
    of_instances=True,
)

NAMES: Final = (
    _CURRENT_APP,
    _APPS,
    *_CRONTAB_FIELDS,
    _ANNOUNCE_REVOKED,
    _ANNOUNCE_CANCELLED,
    _ALREADY_REVOKED,
    _ALREADY_CANCELLED,
    _SUCCESS_STORED,
    _SET_ONCE,
    _SIZE,
    _DELETE,
    _TIMER_ENTRIES,
    _POOL_PROCESSES,
)


def current_app() -> App | None:
    """Return the current app, without making one as ``get_current_app()`` would."""
    state = sys.modules.get(_CURRENT_APP.module)
    found = getattr(_CURRENT_APP.find(), "current_app", None)
    app: App | None = found or getattr(state, "default_app", None)
    return app


def app_names() -> set[str]:
    """Return the names of this process's apps, but for those without one of their own."""
    apps: list[App] = list(_APPS.find() or ())
    return {app.main for app in apps if app.main} - {_FALLBACK}


_PARTS: Final = (
    ("minute", range(60)),
    ("hour", range(24)),
    ("day_of_month", range(1, 32)),
    ("month_of_year", range(1, 13)),
    ("day_of_week", range(7)),
)


def crontab_fields(due: object) -> list[tuple[object, Any]] | None:
    """Return what was written for each of a crontab's five fields, and what it stands for.

    None if ``due`` is no crontab.
    """
    fields: list[tuple[object, Any]] = []
    for private, (name, every) in zip(_CRONTAB_FIELDS, _PARTS, strict=True):
        values = getattr(due, name, None)
        if values is None:
            return None
        written = private.read(due)
        if written is None:
            written = "*" if {*values} == {*every} else ",".join(map(str, sorted(values)))
        fields.append((written, values))
    return fields


def store_once(backend: Any, key: Any, value: str) -> None:
    """Store a value in a key-value result backend, without trying again for long.

    ``set`` of the Redis backend tries for 20 s in an outage (seen in Celery 5.3 to 5.7), and a task
    would wait for that; ``_set`` tries once.
    """
    store = _SET_ONCE.read(backend) or backend.set
    store(key, value)


def was_ended(request: WorkerRequest) -> bool:
    """Whether Celery has revoked or cancelled the run of a request, and has said so."""
    ended = _ALREADY_REVOKED.read(request) or _ALREADY_CANCELLED.read(request)
    return bool(ended)


def announces_revoked() -> bool:
    """Whether requests announce what is revoked; without that, ``task_revoked`` is all there is."""
    return not _ANNOUNCE_REVOKED.missing


def checks_stored_success(request: object) -> bool:
    """Whether this release asks the result backend if a run whose process died had succeeded."""
    return _SUCCESS_STORED.read(request) is not None


def queue_size(channel: Any, queue: str) -> int | None:
    """Return how many messages wait in a queue of a virtual transport of kombu's; None if unknown.

    ``queue_declare`` returns it too, but makes the queue where there is none, which matters with
    SQS (seen in kombu 5.3 to 5.7).
    """
    size = _SIZE.read(channel)
    found = None if size is None else size(queue)
    return found if isinstance(found, int) else None


def delete_queue(channel: Any, queue: str) -> None:
    """Delete a queue of a virtual transport of kombu's that is bound to no exchange.

    ``queue_delete`` deletes those that are bound, and no others (seen in kombu 5.3 to 5.7).
    """
    delete = _DELETE.read(channel)
    if delete is not None:
        delete(queue, "", queue, "")  # the exchange, the routing key and the pattern, for Redis


def scheduled_requests(consumer: Any) -> int | None:
    """Return how many requests wait in a worker for their ETA or rate limit; None if unknown.

    The public ``Timer.queue`` sorts all of them at each look (seen in kombu 5.3 to 5.7).
    """
    timer = getattr(consumer, "timer", None)
    entries = _TIMER_ENTRIES.read(getattr(timer, "schedule", timer))
    if entries is None:
        return None
    # A copy, in one step: another thread may add to it.
    found = (getattr(one.entry, "args", None) for one in [*entries] if not one.entry.canceled)
    return sum(1 for args in found if args and hasattr(args[0], "request_dict"))


def pool_pids(pool: Any) -> list[int]:
    """Return the ids of the processes of a prefork pool; none of another pool's."""
    processes = _POOL_PROCESSES.read(getattr(pool, "_pool", None))
    return [one.pid for one in [*(processes or ())] if isinstance(getattr(one, "pid", None), int)]


class RequestHooks:
    """What `with_hooks` calls, where Celery calls private methods of a request."""

    def before_revoked(self, reason: Any, terminated: Any, signum: Any, expired: Any) -> None:
        """Celery is about to say that a request is revoked or expired."""

    def before_cancelled(self, *, retried: bool) -> None:
        """Celery is about to say that it cancels a run; ``retried``, if as a retry."""

    def success_checked(self, *, stored: bool) -> None:
        """Celery has looked up whether a run whose process died had succeeded."""


def with_hooks(base: type[Any]) -> type[Any]:
    """Extend Celery's class of requests, to be mixed with `RequestHooks`.

    Celery stores the outcome in the first two methods, which may take long: the hooks come before.
    """
    methods: dict[str, Callable[..., Any]] = {}

    def announce_revoked(
        request: Any, reason: Any, terminated: Any, signum: Any, expired: Any
    ) -> Any:
        request.before_revoked(reason, terminated, signum, expired)
        return base._announce_revoked(request, reason, terminated, signum, expired)

    def announce_cancelled(request: Any, **kwargs: Any) -> Any:
        request.before_cancelled(retried=kwargs.get("emit_retry", True))  # before 5.6, always
        return base._announce_cancelled(request, **kwargs)

    def success_was_stored(request: Any) -> Any:
        stored = base._success_was_stored(request)
        request.success_checked(stored=bool(stored))
        return stored

    for name, method in (
        (_ANNOUNCE_REVOKED, announce_revoked),
        (_ANNOUNCE_CANCELLED, announce_cancelled),
        (_SUCCESS_STORED, success_was_stored),
    ):
        attribute = name.path.rpartition(".")[2]
        if hasattr(base, attribute):  # else nobody would call it
            methods[attribute] = method
    return type("HookedRequest", (base,), methods)
