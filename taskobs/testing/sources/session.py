"""The session of a test: the app's settings, with nothing exported."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from taskobs.celery.roles import Role
from taskobs.config.settings import SDK_DISABLED, Settings, resolve
from taskobs.internal.wrapping import Patches
from taskobs.session import session as session_module
from taskobs.session.session import Session, current_session, current_settings, replace_session
from taskobs.testing.sources.measurements import instruments_made_again

if TYPE_CHECKING:
    from typing_extensions import Self

DSN: Final = "https://test@sentry.invalid/1"
"""Of a client whose envelopes the test gets. The domain can't exist (RFC 2606)."""


def settings_of_test(app: Settings) -> Settings:
    """Return the settings of the app's session as a test uses them.

    Nothing is exported, each trace is sampled, and there is no relay.
    """
    return app.replace(
        enabled=True,
        otlp_endpoint=None,
        traces_endpoint=None,
        metrics_endpoint=None,
        logs_endpoint=None,
        otlp=False,
        traces=False,
        other_exporters=(),
        sample_rate=None,
        keep=None,
        sentry_dsn=DSN,
        errors=True,
        metrics=True,
        metrics_port=None,
        relay=False,
        relay_spool=None,
        logs=None,
        log_format=None,
    )


@contextmanager
def sdk_enabled() -> Generator[None]:
    """Make OpenTelemetry's SDK work in a block where the variables of the tests disable it.

    Its providers read that when they are made.
    """
    given = os.environ.pop(SDK_DISABLED, None)
    try:
        yield
    finally:
        if given is not None:
            os.environ[SDK_DISABLED] = given


class SessionOfTest:
    """A session of a test's in the place of the app's, which is suspended until the exit.

    Where the app has none and calls ``init()`` in the test, its settings are used from then on, and
    it gets its session after the test. ``started`` is called after each start of the session.
    """

    def __init__(self, started: Callable[[], object]) -> None:
        self._started = started
        self._app = current_session()
        self._init = Patches()
        self.session = Session(settings_of_test(current_settings()))

    def __enter__(self) -> Self:
        replace_session(None)
        if self._app is not None and self._app.settings.enabled:
            self._app.suspend()
        return self

    def __exit__(self, *_: object) -> None:
        app = self._app
        replace_session(app)
        if app is not None and app.settings.enabled:
            Session.__init__(app, app.settings, app.arguments)  # as if it had not been used yet
            app.start()

    def start(self) -> None:
        """Start the session of the test, once providers and clients lead to it."""
        self._init.wrap(session_module, "init", self._called)
        self._start()

    def stop(self) -> None:
        """End it."""
        self._init.remove()
        self.session.close()

    def _start(self) -> None:
        with instruments_made_again():
            self.session.start()
            replace_session(self.session)
            self.session.begin(errors=True)
            for worker in embedded_workers():
                self.session.became(Role.WORKER, worker)
                _count_anew(worker)
            self._started()

    def _called(
        self, init: Callable[..., Session], _: object, args: tuple[Any, ...], named: dict[str, Any]
    ) -> Session:
        if self._app is not None or args:
            return init(*args, **named)
        given = {name: value for name, value in named.items() if value is not None}
        settings = resolve(given, os.environ)
        self._app = Session(settings, given)
        self.session.suspend()
        Session.__init__(self.session, settings_of_test(settings))
        self._start()
        return self.session


def _count_anew(worker: Any) -> None:  # noqa: ANN401  # Celery's object
    """Have a worker that runs already count what it receives for this session."""
    consumer: Any = getattr(worker, "consumer", None)
    if getattr(consumer, "strategies", None):
        # They keep the counters that they were made with.
        consumer.update_strategies()


def embedded_workers() -> list[Any]:
    """Return the workers (Celery's objects) that run in a thread of this process.

    ``celery.contrib.testing`` starts them so, maybe before the fixture was set up. No registry has
    them; a thread keeps what it runs in ``_target`` until that ends (seen in Python 3.10 to 3.14).
    """
    module = sys.modules.get("celery.worker.worker")
    kind: type | None = getattr(module, "WorkController", None)
    if kind is None:
        return []
    targets = (getattr(thread, "_target", None) for thread in threading.enumerate())
    return [one for one in (getattr(t, "__self__", None) for t in targets) if isinstance(one, kind)]
