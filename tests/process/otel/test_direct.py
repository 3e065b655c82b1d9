"""Processes without a relay export their own spans: over forks, and at their end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter

import pytest

from taskobs.config.settings import resolve
from taskobs.otel.direct import PerProcessProcessor
from taskobs.otel.export.exporter import ExporterFactory
from taskobs.otel.fast_provider import FastSpanProvider
from taskobs.testing.receiver import Receiver
from tests.support.paths import ROOT

PATIENCE = 240.0
AT_THE_END = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "TASKOBS_SHUTDOWN_TIMEOUT": "60"}
"""No timer, and the time that a busy machine needs at the end."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def test_a_child_sends_its_own_spans_and_none_of_its_parents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With gunicorn's --preload, what the parent has queued is the parent's, and sent once."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    with Receiver() as receiver:
        factory = ExporterFactory(resolve({"otlp_endpoint": receiver.endpoint}, {}))
        provider = FastSpanProvider(shutdown_on_exit=False)
        spans = PerProcessProcessor(factory.make_processor)
        provider.add_span_processor(spans)
        provider.route_to(spans)
        tracer = provider.get_tracer("shop")
        tracer.start_span("parent").end()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                tracer.start_span("child").end()
                status = 0 if provider.force_flush() else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert [span.name for span in receiver.spans] == ["child"]
        assert provider.force_flush()
        spans.shutdown()
        assert sorted(span.name for span in receiver.spans) == ["child", "parent"]


def run(program: str, endpoint: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import taskobs; taskobs.init()\n{program}"],
        env={**os.environ, **AT_THE_END, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


SPANS = """
from opentelemetry import trace
tracer = trace.get_tracer("shop")
def spans(name, number):
    for one in range(number):
        with tracer.start_as_current_span(f"{name} {one}"):
            pass
"""


@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("raise SystemExit(3)", 3), ("raise ValueError", 1)]
)
def test_what_is_left_is_sent_at_the_end_of_the_process(end: str, status: int) -> None:
    """My script ends or fails long before the timer: all of its spans arrive."""
    with Receiver() as receiver:
        done = run(f"{SPANS}\nspans('s', 700)\n{end}", receiver.endpoint)
        names = Counter(span.name for span in receiver.spans)
    assert done.returncode == status, done.stderr
    assert len(names) == 700, done.stderr
    assert set(names.values()) == {1}


def test_each_forked_process_sends_what_is_its_own() -> None:
    """My server forks while it has spans to send, and its children fork, too."""
    program = f"""{SPANS}
import os
spans("parent", 20)
for child in range(3):
    if not os.fork():
        spans(f"child {{child}}", 20)
        if not os.fork():
            spans(f"grandchild {{child}}", 20)
            raise SystemExit
        os.wait()
        raise SystemExit
for _ in range(3):
    os.wait()
"""
    with Receiver() as receiver:
        done = run(program, receiver.endpoint)
        names = Counter(span.name for span in receiver.spans)
    assert done.returncode == 0, done.stderr
    assert set(names.values()) == {1}
    assert len(names) == 20 * 7, done.stderr


@pytest.mark.parametrize("manner", ["dead", "hanging"])
def test_a_collector_in_trouble_slows_nothing(manner: str) -> None:
    """My collector is down, or hangs: my process makes 5,000 spans as ever, and ends in time."""
    program = f"""{SPANS}
import time
began = time.monotonic()
spans("s", 5000)
print(time.monotonic() - began)
"""
    with Receiver() as receiver:
        if manner == "dead":
            receiver.close()
        else:
            receiver.behave(hang=True)
        began = time.monotonic()
        done = run(program, receiver.endpoint, TASKOBS_SHUTDOWN_TIMEOUT="1")
        took = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < PATIENCE / 4
    assert took < PATIENCE / 2
    assert "unsent" in done.stderr or "span export to" in done.stderr


def test_greenlets_of_a_patched_process_wait_for_no_export() -> None:
    """With gevent, the export is a greenlet beside those of my requests."""
    pytest.importorskip("gevent")
    program = f"""{SPANS}
import gevent
def request(number):
    spans(f"r{{number}}", 50)
    gevent.sleep(0.01)
gevent.joinall([gevent.spawn(request, number) for number in range(20)])
"""
    with Receiver() as receiver:
        first = "from gevent import monkey; monkey.patch_all()\nimport taskobs; taskobs.init()\n"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", first + program],
            env={**os.environ, **AT_THE_END, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        names = Counter(span.name for span in receiver.spans)
    assert done.returncode == 0, done.stderr
    assert len(names) == 1000, done.stderr
    assert set(names.values()) == {1}
