"""The third part: what an import, ``init()`` and the start of a worker take, in milliseconds."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from typing import Final

from bench.children import Receiver, environment
from bench.figures import Figure, figure
from bench.workers import Worker, redis_server

APP: Final = "from celery import Celery; app = Celery('app'); app.set_current(); app.task(len)"
STEPS: Final[dict[str, tuple[str, str]]] = {
    "import celery, make an app": ("pass", APP),
    "import taskobs, after that": (APP, "import taskobs"),
    "init(), nothing configured": (f"{APP}; import taskobs", "taskobs.init()"),
    "init(), spans": (
        f"{APP}; import taskobs",
        "taskobs.init(otlp_endpoint='http://127.0.0.1:4318')",
    ),
    "init(), spans + Sentry": (
        f"{APP}; import taskobs",
        "taskobs.init(otlp_endpoint='http://127.0.0.1:4318', sentry_dsn='http://k@127.0.0.1:1/1')",
    ),
    "import the SDK and its exporter": (
        APP,
        "import opentelemetry.exporter.otlp.proto.http.trace_exporter",
    ),
    "import sentry_sdk, init()": (
        APP,
        "import sentry_sdk; sentry_sdk.init(dsn='http://k@127.0.0.1:1/1')",
    ),
}
"""What is done before the clock starts, and what is measured."""
STARTED: Final = ("bare", "everything, relay", "everything, direct", "stock pair")
"""Workers, by the names of their set-ups."""
_TIMED: Final = """
import warnings; warnings.simplefilter("ignore")
{before}
import time
begun = time.process_time()
{what}
print((time.process_time() - begun) * 1e3, flush=True)
import os; os._exit(0)
"""


def measure(rounds: int) -> dict[str, Figure]:
    """Measure all steps, interleaved: CPU milliseconds; a worker's start in wall time."""
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        url, receiver = stack.enter_context(redis_server(rounds)), stack.enter_context(Receiver())
        for number in range(rounds):
            print(f"starting: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for step, (before, what) in STEPS.items():
                times.setdefault(step, []).append(_timed(before, what))
            for name in STARTED:
                with Worker(name, f"{url}/{number}", receiver, level="INFO") as worker:
                    ready = worker.wait_ready() * 1e3
                times.setdefault(f"worker ready: {name}", []).append(ready)
    return {step: figure(found) for step, found in times.items()}


def _timed(before: str, what: str) -> float:
    source = _TIMED.format(before=before, what=what)
    command = [sys.executable, "-c", source]
    done = subprocess.run(  # noqa: S603  # ours
        command,
        env=environment(),
        cwd=os.environ.get("TMPDIR", "/"),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)
