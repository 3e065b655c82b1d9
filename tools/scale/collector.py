"""A real OpenTelemetry Collector, as docs/how-to/collector.md configures it, and what it takes."""

from __future__ import annotations

import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import proc
from bench.workers import wait_until
from taskobs.testing.http_server import HOST, LoopbackServer, TelemetryHandler
from tests.live.services import collector as find_collector
from tests.live.services import free_port, plain_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

DECISION_WAIT: Final = 3
"""Seconds. Ten times shorter than the page's, so that a step of the measurement is longer."""
_CONFIG: Final = """
receivers:
  otlp: {{protocols: {{http: {{endpoint: "{host}:{otlp}"}}}}}}
processors:
  memory_limiter: {{check_interval: 1s, limit_mib: 4096, spike_limit_mib: 512}}
  batch: {{timeout: 1s}}
  tail_sampling:
    decision_wait: {wait}s
    num_traces: 2000000
    policies:
      - {{name: errors, type: status_code, status_code: {{status_codes: [ERROR]}}}}
      - name: outcomes
        type: string_attribute
        string_attribute: {{key: celery.outcome, values: [failed, lost, retried]}}
      - name: slow runs
        type: ottl_condition
        ottl_condition:
          span:
            - >-
              span.attributes["celery.outcome"] != nil
              and span.end_time - span.start_time > Duration("5s")
      - name: a share of the rest
        type: probabilistic
        probabilistic: {{sampling_percentage: 10}}
exporters:
  otlp_http: {{endpoint: "http://{host}:{backend}"}}
service:
  telemetry:
    logs: {{level: error}}
    metrics: {{readers: [{{pull: {{exporter: {{prometheus: {{host: {host}, port: {own}}}}}}}}}]}}
  pipelines:
    traces: {{receivers: [otlp], processors: [{processors}], exporters: [otlp_http]}}
"""


class Backend(LoopbackServer):
    """Takes what a Collector sends, and looks at none of it."""

    def __init__(self) -> None:
        super().__init__(0, _BackendHandler)
        self.start()


class _BackendHandler(TelemetryHandler):
    max_body = 1024 * 1024 * 1024

    def post(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(HTTPStatus.OK)


@dataclass(frozen=True)
class Collector:
    """One that runs."""

    pid: int
    endpoint: str
    """Where relays send spans."""
    _metrics: str

    @property
    def cpu(self) -> float:
        """CPU seconds so far."""
        return proc.cpu(self.pid)

    @property
    def memory(self) -> float:
        """Resident megabytes."""
        return proc.memory(self.pid).resident

    def count(self, name: str) -> float:
        """Add up a metric of its own; 0 if it has none of that name yet."""
        with urllib.request.urlopen(self._metrics, timeout=30) as answer:  # noqa: S310  # ours
            text: str = answer.read().decode()
        return total(text, name)


def total(text: str, name: str) -> float:
    """Add up the series of a metric in Prometheus' text format, whatever its suffix."""
    pattern = rf"^{name}(?:_total|__spans__total|__spans_)?(?:\{{[^}}]*\}})? (\S+)$"
    return sum(map(float, re.findall(pattern, text, re.MULTILINE)))


def version() -> str:
    """Give the release of the Collector."""
    command = [find_collector(), "--version"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return said.split()[-1]


@contextmanager
def running(folder: Path, *, tail: bool, cores: Sequence[int]) -> Generator[Collector]:
    """Run a Collector on these cores, with tail sampling or without."""
    program = find_collector()
    ports: Mapping[str, int] = {"otlp": free_port(), "own": free_port()}
    steps = ["memory_limiter", *(["tail_sampling"] if tail else []), "batch"]
    backend = Backend()
    config = _CONFIG.format(
        host=HOST,
        wait=DECISION_WAIT,
        backend=backend.server_port,
        processors=", ".join(steps),
        **ports,
    )
    file = folder / f"collector-{tail}.yaml"
    file.write_text(config, encoding="utf-8")
    own = f"http://{HOST}:{ports['own']}/metrics"
    env = {**plain_environment(), "GOMAXPROCS": str(len(cores))}
    with (folder / f"collector-{tail}.log").open("wb") as log:
        with on_cores(cores):
            process = subprocess.Popen([program, "--config", file], stdout=log, stderr=log, env=env)
        try:
            wait_until(lambda: _answers(own, process))
            yield Collector(process.pid, f"http://{HOST}:{ports['otlp']}/v1/traces", own)
        finally:
            process.kill()  # what waits for a decision is nobody's
            process.wait()
            backend.close()


@contextmanager
def on_cores(cores: Sequence[int]) -> Generator[None]:
    """Have the processes that are started in this block run on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the Collector ended with {process.returncode}")
    with suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310  # ours
        return True
    time.sleep(0.1)
    return False
