"""The private names of sentry-sdk that are used, each with what is done without it.

Seen in sentry-sdk 2.45 to 2.75 and 3.0.0b2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import reload
from threading import Thread
from typing import Any, Final

from sentry_sdk import client as sentry_client
from sentry_sdk.integrations import logging as sentry_logging
from sentry_sdk.scope import Scope
from sentry_sdk.transport import HttpTransport, Transport

from taskobs.internal.private_names import PrivateName
from taskobs.internal.wrapping import Patches


def _name(module: str, path: str, use: str, *, of_instances: bool = False) -> PrivateName:
    return PrivateName(
        package="sentry-sdk", module=module, path=path, use=use, of_instances=of_instances
    )


_IGNORED_LOGGERS: Final = _name(
    "sentry_sdk.integrations.logging",
    # In 3.x ``ignore_logger`` means another set.
    "_IGNORED_LOGGERS_EVENTS"
    if hasattr(sentry_logging, "_IGNORED_LOGGERS_EVENTS")
    else "_IGNORED_LOGGERS",
    "gives the loggers that Sentry ignores; without it those that taskobs silences stay so",
)
_EVENT_PROCESSORS: Final = _name(
    "sentry_sdk.scope",
    "Scope._event_processors",
    "removes taskobs' processor; without it one that does nothing stays after close()",
)
_SCOPE_NAME: Final = _name(
    "sentry_sdk.scope",
    "Scope._name",
    "tells the scope of a request; without it a publish in a request without a span joins the"
    " request's Sentry trace only if that has a parent or a transaction",
)
_INTEGRATIONS: Final = _name(
    "sentry_sdk.integrations",
    "_AUTO_ENABLING_INTEGRATIONS",
    "lists the integrations to enable with their libraries; without it Sentry enables all at once",
)
_DEACTIVATES: Final = _name(
    "sentry_sdk.integrations",
    "_INTEGRATION_DEACTIVATES",
    "says which integrations replace others; without it both stay enabled",
)
_WORKER: Final = _name(
    "sentry_sdk.transport",
    "HttpTransport._worker",
    "tells whether events wait to be sent; without it each flush waits for an answer",
    of_instances=True,
)
_THREAD: Final = _name(
    "sentry_sdk.worker",
    "BackgroundWorker._thread",
    "is waited for at close(); without it the thread may end later",
    of_instances=True,
)
_QUEUE: Final = _name(
    "sentry_sdk.worker",
    "BackgroundWorker._queue",
    "tells whether events wait to be sent; without it a flush counts as complete when it ends",
    of_instances=True,
)
_REQUEST: Final = _name(
    "sentry_sdk.transport",
    "HttpTransport._request",
    "tells when Sentry can't be reached; without it each attempt of urllib3's is logged",
)
_WSGI_HELPERS: Final = _name(
    "sentry_sdk.integrations._wsgi_common",
    "RawPostDataException",  # of Django, or Sentry's replacement
    "is looked up again once the app has Django; without it nothing needs to be",
)
_EXPERIMENTS: Final = _name(
    "sentry_sdk.consts",
    "DEFAULT_OPTIONS._experiments",  # an option, which is a key and no attribute
    "may hold the app's before_send_log, and takes the level of compression; without it only the"
    " option of that name is called, and events are compressed as much as Sentry does",
    of_instances=True,
)
SERIALIZE: Final = "serialize"
NAMES: Final = (
    *(_IGNORED_LOGGERS, _EVENT_PROCESSORS, _SCOPE_NAME, _INTEGRATIONS, _DEACTIVATES),
    *(_WORKER, _THREAD, _QUEUE, _REQUEST, _WSGI_HELPERS, _EXPERIMENTS),
)


def integrations() -> list[str] | None:
    """Return the integrations that Sentry enables by itself; None if it does not tell.

    Such as ``sentry_sdk.integrations.flask.FlaskIntegration``.
    """
    found = _INTEGRATIONS.find()
    return None if found is None else list(found)


def reload_wsgi_helpers() -> None:
    """Have Sentry's helpers for WSGI look for Django again, which was hidden from their import.

    Reloading keeps the module's namespace, so what others imported from it uses what is new.
    """
    module = sys.modules.get(_WSGI_HELPERS.module)
    if module is not None and not _WSGI_HELPERS.missing:
        reload(module)


def experiments(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return those of a client's options that Sentry calls experiments."""
    return options.get(_EXPERIMENTS.path.rpartition(".")[2]) or {}


def fast_compression() -> dict[str, object]:
    """Return the option for a client whose events are compressed at gzip's fastest level.

    Sentry's own level is gzip's best, which takes several times as long to make an event a tenth
    shorter.
    """
    return {_EXPERIMENTS.path.rpartition(".")[2]: {"transport_compression_level": 1}}


def deactivated() -> Mapping[str, set[str]]:
    """Return which integrations each integration replaces."""
    return _DEACTIVATES.find() or {}


def silence(loggers: Iterable[str]) -> list[str]:
    """Have Sentry ignore these loggers; return those that it did not ignore before."""
    ignored: set[str] | None = _IGNORED_LOGGERS.find()
    if ignored is None:
        for name in loggers:
            sentry_logging.ignore_logger(name)
        return []
    silenced = [name for name in loggers if name not in ignored]
    for name in silenced:
        ignored.add(name)
    return silenced


def unsilence(loggers: Iterable[str]) -> None:
    """Have Sentry hear these loggers again."""
    ignored: set[str] = _IGNORED_LOGGERS.find() or set()
    for name in loggers:
        ignored.discard(name)


def remove_event_processor(scope: Scope, processor: Callable[..., object]) -> None:
    """Take an event processor away from a scope."""
    processors: list[object] = _EVENT_PROCESSORS.read(scope, [])
    if processor in processors:
        processors.remove(processor)


def scope_name(scope: Scope) -> str | None:
    """Return the name that an integration of a web framework gives to a request's scope."""
    name: object = _SCOPE_NAME.read(scope)
    return name if isinstance(name, str) else None


def watch_requests(patches: Patches, around: Callable[..., Any]) -> None:
    """Have ``around(request, transport, args, kwargs)`` called for each request of a transport."""
    if not _REQUEST.missing:
        patches.wrap(HttpTransport, "_request", around)


def replace_serializer(patches: Patches, around: Callable[..., Any]) -> None:
    """Have ``around(serialize, None, args, kwargs)`` called for each event that is serialized.

    No private name, but no documented one either: without it, Sentry serializes all of an event.
    """
    if callable(getattr(sentry_client, SERIALIZE, None)):
        patches.wrap(sentry_client, SERIALIZE, around)


def has_sender(transport: Transport | None) -> bool:
    """Tell whether a transport has a worker of Sentry's, with a thread and a queue."""
    return _WORKER.read(transport) is not None


def sender_thread(transport: Transport | None) -> Thread | None:
    """Return the thread that sends for a transport, None if it has not been started."""
    found: object = _THREAD.read(_WORKER.read(transport))
    return found if isinstance(found, Thread) else None


def pending(transport: Transport | None) -> int:
    """Return how many envelopes wait to be sent."""
    return int(getattr(_QUEUE.read(_WORKER.read(transport)), "unfinished_tasks", 0))
