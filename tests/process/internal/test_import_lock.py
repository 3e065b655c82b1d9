"""What is imported late, and forks meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SLOW = """
import time
started.set()
time.sleep(0.5)
whole = True
"""
FORK = """
import os, sys, threading, types
sys.path[:0] = [{folder!r}, {root!r}]
import builtins
builtins.started = threading.Event()
from taskobs.internal import import_lock
import_lock.watch_forks()
importer = threading.Thread(target=import_lock.import_locked, args=("slow", "no.such.module"))
importer.start()
started.wait()
child = os.fork()
if not child:
    assert import_lock.import_locked("slow").whole
    os._exit(0)
importer.join()
assert import_lock.import_locked("slow").whole
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
MAKE = """
import os, signal, sys, threading, time
import taskobs.internal.import_lock
from opentelemetry.exporter.otlp.proto.grpc import exporter, trace_exporter
from taskobs.otel.export.encoding import encoding_exporter
taskobs.internal.import_lock.watch_forks()
making, make = threading.Event(), exporter.insecure_channel
def slow(*args, **options):
    making.set()
    time.sleep(0.5)
    return make(*args, **options)
def made():
    return encoding_exporter(trace_exporter, {"endpoint": "http://127.0.0.1:1"})
exporter.insecure_channel = slow
thread = threading.Thread(target=made)
thread.start()
making.wait()
child = os.fork()
if not child:
    signal.alarm(60)  # ends it if it hangs
    assert exporter.insecure_channel is slow
    made()
    os._exit(0)
thread.join()
sys.exit(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""
INIT = """
import sys
from celery import Celery
app = Celery("shop", broker="memory://")
import taskobs
session = taskobs.init()
assert "requests" not in sys.modules
"""


def run(source: str, **env: str) -> None:
    command = [sys.executable, "-c", source]
    subprocess.run(command, cwd=ROOT, check=True, timeout=240, env={**os.environ, **env})


def test_a_fork_waits_for_an_import(tmp_path: Path) -> None:
    """A child that is forked while another thread imports finds all of the module."""
    (tmp_path / "slow.py").write_text(SLOW)
    run(FORK.format(folder=str(tmp_path), root=str(ROOT)))


def test_a_fork_waits_for_an_exporter_that_is_made() -> None:
    """A child that is forked while another thread makes the exporter over gRPC makes its own."""
    pytest.importorskip("grpc")
    run(MAKE)


def test_what_is_missing_says_so() -> None:
    """A module that isn't there is an import error, as anywhere."""
    from taskobs.internal.import_lock import import_locked

    with pytest.raises(ModuleNotFoundError):
        import_locked("no.such.module")


def test_a_process_that_sends_nothing_imports_no_exporter() -> None:
    """My management command imports the app, and doesn't pay for what it never sends."""
    run(INIT, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")


def test_a_worker_without_a_relay_imports_it_before_its_children() -> None:
    """Children share what their parent has imported."""
    source = """
from taskobs.celery.roles import Role
session.became(Role.WORKER)
assert "requests" in sys.modules
"""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "TASKOBS_RELAY": "0"}
    run(INIT + source, **env)


@pytest.mark.parametrize("missing", ["grpc", "opentelemetry.exporter.otlp.proto.grpc"])
def test_a_missing_extra_is_an_error_of_init(missing: str) -> None:
    """I ask for gRPC and didn't install it: I am told at once how to."""
    source = f"""
import sys
sys.modules[{missing!r}] = None
import taskobs
from taskobs.errors import MissingExtraError
try:
    taskobs.init(otlp_endpoint="http://127.0.0.1:1", otlp_protocol="grpc")
except MissingExtraError as error:
    assert "taskobs[grpc]" in str(error)
else:
    sys.exit("no error")
"""
    run(source)
