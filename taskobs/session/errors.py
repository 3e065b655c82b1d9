"""A session's error reporting: starts with a DSN, or when the app initialises Sentry."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from taskobs.celery.outages import Outages
from taskobs.celery.roles import Role
from taskobs.config import checks
from taskobs.config.settings import Settings
from taskobs.config.task_rules import task_rules
from taskobs.internal import forksafe
from taskobs.internal.forksafe import ForkStep
from taskobs.internal.hidden_modules import hidden_modules
from taskobs.internal.shared_page import SharedPage
from taskobs.observers.sentry.trace import PublishedTrace
from taskobs.otel.task_spans import shared_task_signals
from taskobs.session.environment import active_client

if TYPE_CHECKING:
    from sentry_sdk.client import BaseClient

    from taskobs.sentry.pipeline import SentryPipeline

_log: Final = logging.getLogger("taskobs")
_NOT_SHARED: Final = 1
"""Flag in a worker's shared page: the warning about a client that can't be shared was logged."""


class Errors:
    """Reports failed runs to Sentry, from the first ``look`` that finds a DSN or a client.

    ``needed`` is called when a client is needed while this waits for that.
    """

    def __init__(self, settings: Settings, needed: Callable[[], object]) -> None:
        self._settings = settings
        self._needed = needed
        self._outages = Outages()
        self._undo = ExitStack()
        self._role = Role.PRODUCER
        self._runs_no_tasks = False
        self._page: SharedPage | None = None
        self._offered: BaseClient | None = None
        self._waiting: PublishedTrace | None = None
        self.pipeline: SentryPipeline | None = None
        forksafe.add(self, ForkStep.SESSION)

    @property
    def destination(self) -> str | None:
        """Return where errors go, without the key; None if they go nowhere."""
        if self._waiting is not None:
            return _shown(self._settings.sentry_dsn)
        client = self.pipeline.client() if self.pipeline is not None else None
        return None if client is None else _shown(str(client.options.get("dsn") or ""))

    def wait(self, *, until_needed: bool) -> None:
        """Make no client for a DSN before it is needed, or else at the next ``look``.

        Meanwhile messages carry Sentry's trace as they do with a client.
        """
        self._stop_waiting()
        if until_needed and self.pipeline is None and self._settings.errors:
            self._waiting = PublishedTrace(self._needed)
            shared_task_signals().attach(self._waiting)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            shared_task_signals().detach(self._waiting)
            self._waiting = None

    def look(self) -> bool:
        """Start if there is a DSN or a client; adopt a client that the app has made since.

        Returns whether reporting starts with this call.
        """
        found = active_client()
        if found is not None:
            self._share_client(found)  # before the pipeline adds its own to the client's options
        begins = self.pipeline is None and (
            (self._settings.errors and self._waiting is None)
            or found is not None
            or self._accept_client()
        )
        if begins:
            self._start()
        if self.pipeline is not None:
            self.pipeline.client()
        return begins

    @property
    def offered(self) -> bool:
        """Whether there is a client in another process of the worker, and none in this one."""
        return self.pipeline is None and self._page is not None and self._page.get() is not None

    def became(self, role: Role, *, forks: bool) -> None:
        """Store the role of this process; with ``forks``, its pool children run all tasks."""
        self._role, self._runs_no_tasks = role, forks
        if role is Role.WORKER and forks and self._page is None:
            self._page = SharedPage()
        self._apply_role()

    def after_fork(self) -> None:
        """In a forked child, after the pipeline: it runs tasks, with the inherited client."""
        self._runs_no_tasks = False
        if self.pipeline is not None:
            self._offered = active_client()  # the parent has it too, so it needn't be shared

    def flushes(self, timeout: float, *, relayed: bool) -> list[Callable[[], object]]:
        """Return calls that send from this process what no relay does; each may block."""
        sentry = self.pipeline
        if sentry is None:
            return []
        if relayed:
            sentry.flush(timeout)  # moves Sentry's batched items to the relay, without blocking
            return []
        return [lambda: sentry.flush(timeout)]

    def stop(self) -> None:
        """Stop reporting."""
        forksafe.remove(self)
        self._stop_waiting()
        self._undo.close()
        self.pipeline = self._offered = None
        if self._page is not None:
            self._page.close()
            self._page = None

    def _start(self) -> None:
        # Sentry imports them only to ask whether they have patched anything.
        with hidden_modules("gevent", "eventlet"):
            from taskobs.observers.sentry.observer import SentryObserver
            from taskobs.sentry.event_rules import event_rule, event_rules
            from taskobs.sentry.pipeline import SentryPipeline

        with ExitStack() as undo:
            undo.callback(self._outages.close)
            pipeline = SentryPipeline.start(self._settings, self._outages.repeats)
            undo.callback(pipeline.close, 0.0)
            if self._settings.trace_url is not None:
                self._start_links(undo, self._settings.trace_url)
            rule = event_rule(self._settings)
            by_task = event_rules(task_rules(self._settings.tasks), rule)
            errors = SentryObserver(pipeline, rule, by_task)
            shared_task_signals().attach(errors)
            undo.callback(shared_task_signals().detach, errors)
            if self._settings.crons:
                self._start_crons(undo, pipeline)
            self.pipeline = pipeline
            self._undo = undo.pop_all()
        self._stop_waiting()  # last: a message that is being published has the trace from either
        self._apply_role()

    def _start_links(self, undo: ExitStack, trace_url: str) -> None:
        from taskobs.sentry.trace_links import TraceLinks

        links = TraceLinks(trace_url)
        undo.callback(links.remove)
        links.install()

    def _start_crons(self, undo: ExitStack, pipeline: SentryPipeline) -> None:
        from taskobs.observers.crons import CronObserver

        crons = CronObserver(
            pipeline,
            exclude=self._settings.crons_exclude or (),
            options=self._settings.crons_options,
        )
        shared_task_signals().attach(crons)
        undo.callback(shared_task_signals().detach, crons)

    def _apply_role(self) -> None:
        if self.pipeline is None:
            return
        if self._runs_no_tasks:
            self.pipeline.ignore_broker_commands()
        if self._role is Role.WORKER:
            self._outages.watch_worker()
        elif self._role is Role.BEAT:
            self._outages.watch_beat()

    # Clients that the app has made in another process of the worker.

    def _share_client(self, client: BaseClient) -> None:
        """Share the app's client with the worker's other processes, which may have none."""
        if self._page is None or client is self._offered:
            return
        self._offered = client
        from taskobs.sentry.shared_client import share

        in_child = self._role is Role.POOL_CHILD
        if not share(self._page, client) and in_child and self._page.is_first(_NOT_SHARED):
            _log.warning(
                "taskobs: sentry_sdk.init() is called in pool children alone, with an option that "
                "can't be handed to their worker's main process, so runs whose process dies are "
                "not reported: call it where the worker imports it, too (pid %d)",
                os.getpid(),
            )

    def _accept_client(self) -> bool:
        if self._page is None or self._page.get() is None:
            return False
        from taskobs.sentry.shared_client import accept

        return accept(self._page) is not None


def _shown(dsn: str | None) -> str:
    """Return where a DSN leads, without the key."""
    return checks.without_credentials(dsn).replace("***@", "") if dsn else "the app's Sentry"
