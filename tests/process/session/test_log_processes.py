"""Log records of whole processes: scripts, forks, signals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from typing import Any

import pytest

from taskobs.testing.receiver import Receiver

PATIENCE = 120.0
START = """
import logging, os, signal, sys, time
from celery import Celery
import taskobs
app = Celery("shop", broker="memory://")
session = taskobs.init(shutdown_timeout=60.0, {settings})
log = logging.getLogger("shop")
"""
SENT = 'logs="otlp", otlp_endpoint=sys.argv[1]'


@pytest.fixture
def receiver() -> Generator[Receiver]:
    with Receiver() as running:
        yield running


def run(receiver: Receiver, code: str, settings: str = SENT) -> subprocess.CompletedProcess[str]:
    """Run a script that has called ``init()``."""
    command = [sys.executable, "-c", START.format(settings=settings) + code, receiver.endpoint]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def bodies(receiver: Receiver) -> list[str]:
    return sorted(str(one.body) for one in receiver.logs)


def test_a_script_that_ends_at_once_has_sent_its_lines(receiver: Receiver) -> None:
    """I log a line as the last thing that my script does, and it is there."""
    done = run(receiver, "log.warning('the last line')")
    assert done.returncode == 0
    assert "taskobs" not in done.stderr
    assert bodies(receiver) == ["the last line"]
    [found] = receiver.logs
    assert found.resource["service.name"] == "shop"


def test_a_forked_child_sends_its_own_records_alone(receiver: Receiver) -> None:
    """A process forks while records wait: each is sent once, by the process that logged it."""
    code = """
log.warning("parent")
if not os.fork():
    log.warning("child")
    session.flush()
    os._exit(0)
os.wait()
"""
    assert run(receiver, code).returncode == 0
    assert bodies(receiver) == ["child", "parent"]


def test_a_collector_that_is_down_makes_no_loop(receiver: Receiver) -> None:
    """Log records can't be sent, at DEBUG: the lines about that are not sent in their turn."""
    receiver.behave("/v1/logs", status=400)
    code = """
logging.basicConfig(level=logging.DEBUG)
log.warning("one")
for _ in range(5):
    session.flush(10.0)
"""
    assert run(receiver, code).returncode == 0
    sent = [one for one in receiver.requests if one.path == "/v1/logs"]
    # The record, and what was logged before it; each flush that found nothing made no request.
    assert 1 <= len(sent) <= 3


def test_logs_off_patches_nothing(receiver: Receiver) -> None:
    """Without the setting, my logging calls are as quick as they are, and nothing is imported."""
    code = """
assert not hasattr(logging.Logger.callHandlers, "__wrapped__")
log.warning("hello")
session.flush()
assert "taskobs.observers.log_capture" not in sys.modules
assert "taskobs.otel.export.logs" not in sys.modules
"""
    done = run(receiver, code, "otlp_endpoint=sys.argv[1]")
    assert done.returncode == 0, done.stderr
    assert receiver.logs == ()


def test_close_takes_it_away(receiver: Receiver) -> None:
    """After `close()`, nothing is taken any more, and what waited was sent."""
    code = """
log.warning("before")
session.close()
log.warning("after")
assert not hasattr(logging.Logger.callHandlers, "__wrapped__")
"""
    done = run(receiver, code)
    assert done.returncode == 0, done.stderr
    assert bodies(receiver) == ["before"]


def test_json_by_a_configuration_of_ones_own(receiver: Receiver) -> None:
    """A web process writes JSON with the formatter that its dictConfig names."""
    code = """
import logging.config
logging.config.dictConfig({
    "version": 1, "disable_existing_loggers": False,
    "formatters": {"json": {"()": "taskobs.JsonFormatter"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["out"], "level": "INFO"},
})
log.warning("as %s", "json", extra={"order": 7})
"""
    done = run(receiver, code, "otlp_endpoint=sys.argv[1]")
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")
    ]
    [found] = [line for line in lines if line["Body"] == "as json"]
    assert found["Attributes"]["order"] == 7
    assert found["Resource"]["service.name"] == "shop"
