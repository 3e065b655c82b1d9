"""What a short command of Celery imports more with taskobs: a list that may not grow unnoticed.

An import takes as long as most of what `init()` does with it, and all of them together are what a
command that only publishes is late by. Whoever adds one says here why each process needs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from taskobs.otel.export.plain_span import is_known
from taskobs.testing.receiver import Receiver
from tests.support.paths import ROOT

APP = """
import atexit, os, sys
from celery import Celery
@atexit.register
def _():
    print(*sys.modules, sep="\\n", file=sys.stderr)
app = Celery("shop", broker="memory://localhost", backend="cache+memory://")
if "SHOP_IS_OBSERVED" in os.environ:
    import taskobs
    taskobs.init()
"""
PACKAGES = {
    "",
    "celery",
    "celery.patches",
    "config",
    "internal",
    "observers",
    "protocol",
    "session",
}
INIT = {
    "celery._compat",  # the name of the app
    "celery.command_line",  # whether this is a command
    *("celery.connect", "celery.places", "celery.process_signals"),  # the role of the process
    "celery.patches.send",  # the first publish
    *("config.checks", "config.otlp", "config.settings"),
    *("internal.forksafe", "internal.import_lock"),  # forks that wait for imports
    *("internal.guard", "internal.private_names", "internal.wrapping"),
    "internal.import_hooks",  # OpenTelemetry and Sentry, as the app imports them
    "internal.termination",  # SIGTERM
    *("observers.context", "observers.logs", "observers.thread_runs"),  # fields of log records
    *("protocol.spool_defaults", "semconv"),
    *("session.environment", "session.first_error", "session.first_use", "session.session"),
    *PACKAGES,
}
PUBLISH = INIT | {
    *("celery.adapter", "model", "otel", "otel.export", "session.command"),  # packages
    *("celery.adapter.brokers", "celery.adapter.names", "celery.adapter.publishes"),
    *("celery.adapter.queues", "celery.adapter.stock_attributes"),
    *("internal.timeouts", "model.messages", "observers.attributes"),
    *("otel.export.otlp_post", "otel.export.plain_span"),
    *("protocol.otlp", "protocol.otlp.attributes", "protocol.otlp.spans"),
    *("protocol.otlp.wire_format", "protocol.validation"),
    "session.command.publish",
}


class Shop:
    """Runs commands of an app that reports to a receiver."""

    def __init__(self, receiver: Receiver, folder: Path) -> None:
        self._receiver = receiver
        self._folder = folder
        (folder / "shop_of_imports.py").write_text(APP, encoding="utf-8")

    def added(self, *command: str) -> set[str]:
        """Give the modules that a command imports with taskobs, and not without."""
        observed = {
            "SHOP_IS_OBSERVED": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._receiver.endpoint,
            "SENTRY_DSN": self._receiver.dsn,
        }
        return self._modules(command, observed) - self._modules(command, {})

    def _modules(self, command: tuple[str, ...], variables: dict[str, str]) -> set[str]:
        path = os.pathsep.join([str(self._folder), str(ROOT)])
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "shop_of_imports", *command],
            env={**os.environ, "PYTHONPATH": path, **variables},
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return set(done.stderr.split())


@pytest.fixture
def shop(receiver: Receiver, tmp_path: Path) -> Shop:
    return Shop(receiver, tmp_path)


def of_taskobs(names: set[str]) -> set[str]:
    return {f"taskobs.{name}".rstrip(".") for name in names}


def outside_of_python(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


def test_a_command_that_publishes_nothing_imports_what_waits_for_a_first_use(shop: Shop) -> None:
    """`celery purge` imports no SDK, no wrapt, and of taskobs nothing that records anything."""
    assert outside_of_python(shop.added("purge", "-f")) == of_taskobs(INIT)


@pytest.mark.skipif(not is_known(), reason="spans are left to this release of the SDK")
def test_a_command_that_publishes_imports_what_describes_and_posts_its_span(shop: Shop) -> None:
    """`celery call` imports that alone, too: no settings' checks but those of what is set."""
    assert outside_of_python(shop.added("call", "add")) == of_taskobs(PUBLISH)
