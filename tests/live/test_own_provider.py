"""The app's own provider through the relay: all ended spans arrive, whoever is killed."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskobs import semconv
from taskobs.testing import wire
from tests.live.process import LIMIT, wait_until
from tests.live.test_relay import children, is_relay, relay_of
from tests.support.export import Backend, backend
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedSpan
    from tests.live.celery_process import Broker, LiveApp, Worker

OWN = "tests.live.apps.own_provider"
EXPORTED_BY = {"x-key": "secret"}
INSTRUMENTED = "auto_instrumentation"
"""In the path by which `opentelemetry-instrument` instruments each Python process."""
MEGABYTES = 60
KILLS = 8


def notes(folder: Path, file: str) -> list[str]:
    with suppress(FileNotFoundError):
        return (folder / file).read_text().splitlines()
    return []


def are_noted(folder: Path, number: int) -> bool:
    return len(notes(folder, "ended")) >= number


def spans_at(there: Backend) -> list[ReceivedSpan]:
    with there.changed:
        return [span for request in there.requests for span in wire.spans(request.body)]


def of_tasks(spans: Iterable[ReceivedSpan], folder: Path) -> Counter[str]:
    """Count the spans whose end a task has noted, by name."""
    noted = set(notes(folder, "ended"))
    return Counter(span.name for span in spans if span.name in noted)


def nothing_of_ours(live: LiveApp, notes_in: Path) -> None:
    """Configure nothing but the app's own provider."""
    del live.env["OTEL_EXPORTER_OTLP_ENDPOINT"], live.env["SENTRY_DSN"]
    live.env["APP_NOTES"] = str(notes_in)


IN_CHILDREN = {"APP_IN_CHILDREN": "1"}


@pytest.mark.parametrize(
    ("pool", "more"), [("prefork", {}), ("spawn", {}), ("prefork", IN_CHILDREN)], ids=repr
)
def test_no_ended_span_is_lost_with_its_process(
    live: LiveApp,
    receiver: Receiver,
    redis_broker: Broker,
    tmp_path: Path,
    *,
    pool: str,
    more: dict[str, str],
) -> None:
    """My children are killed right after they end spans: both of my backends get each, once."""
    nothing_of_ours(live, tmp_path)
    with backend() as there:
        env = {"APP_OTLP": there.endpoint, "APP_OTHER": f"{receiver.endpoint}/v1/traces"}
        worker = live.worker(redis_broker, app=OWN, env=env | more, pool=pool)
        producer = live.producer(redis_broker, app=OWN, env=env)
        producer.run("""
sent = [app.end_spans.delay(f"kill{n}", 10, die=True) for n in range(4)]
sent += [app.end_spans.delay(f"stay{n}", 10) for n in range(4)]
for one in sent: one.get(timeout=90, propagate=False)
result = None
""")
        assert worker.stop() == 0
        wanted = Counter(notes(tmp_path, "ended"))
        assert len(wanted) == 80
        assert of_tasks(spans_at(there), tmp_path) == wanted
        assert of_tasks(receiver.spans, tmp_path) == wanted
        assert all(one.headers.items() >= EXPORTED_BY.items() for one in there.requests)
        for spans in (spans_at(there), receiver.spans):
            assert {span.resource["service.name"] for span in spans} == {"own"}
            runs = [span for span in spans if span.kind == "consumer"]
            outcomes = Counter(str(run.attributes[semconv.CELERY_OUTCOME]) for run in runs)
            assert outcomes == {"lost": 4, "succeeded": 4}
    # The other processor saw all of those processes that had an end, and was flushed there.
    buffered = Counter(notes(tmp_path, "buffered"))
    assert buffered >= Counter(name for name in wanted if name.startswith("stay"))
    assert worker.log.count("traces to the app's TracerProvider") == (0 if more else 1)


@pytest.mark.parametrize("pool", ["threads", "gevent", "solo"])
def test_no_ended_span_is_lost_with_an_inline_worker(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, tmp_path: Path, pool: str
) -> None:
    """My worker runs tasks in its own process, and is killed with it: its relay sends them all."""
    nothing_of_ours(live, tmp_path)
    with backend() as there:
        env = {"APP_OTLP": there.endpoint, "APP_OTHER": f"{receiver.endpoint}/v1/traces"}
        worker = live.worker(redis_broker, app=OWN, env=env, pool=pool)
        producer = live.producer(redis_broker, app=OWN, env=env)
        producer.run("app.end_spans.delay('kill', 50, die=True); result = None")
        worker.wait()
        wanted = Counter(notes(tmp_path, "ended"))
        assert len(wanted) == 50
        assert receiver.wait_for(lambda r: of_tasks(r.spans, tmp_path) == wanted, LIMIT)
        assert wait_until(lambda: of_tasks(spans_at(there), tmp_path) == wanted, timeout=LIMIT)


def pool_children(worker: Worker) -> list[int]:
    return [pid for pid in children(worker.pid) if not is_relay(pid)]


def megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def with_configurator(folder: Path) -> Path:
    """Make the SDK's configurator be found, as `opentelemetry-distro` does."""
    found = folder / "configurator-1.0.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: configurator\nVersion: 1.0\n")
    (found / "entry_points.txt").write_text(
        "[opentelemetry_configurator]\n"
        "configurator = opentelemetry.sdk._configuration:_OTelSDKConfigurator\n"
    )
    return folder


def test_opentelemetry_instrument_loses_no_ended_span(
    live: LiveApp, receiver: Receiver, redis_broker: Broker, tmp_path: Path
) -> None:
    """I run `opentelemetry-instrument celery worker`, and my children are killed at random."""
    chosen = random.Random(7)  # noqa: S311  # no secret
    env = {
        "APP_NOTES": str(tmp_path),
        "OTEL_TRACES_EXPORTER": "otlp_proto_http",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_SERVICE_NAME": "instrumented",
        "PYTHONPATH": f"{with_configurator(tmp_path / 'site')}{os.pathsep}{ROOT}",
    }
    program = Path(sys.executable).with_name("opentelemetry-instrument")
    producer = live.producer(redis_broker, app=OWN, env={"APP_NOTES": str(tmp_path)})
    live.launcher = [str(program), sys.executable]
    worker = live.worker(redis_broker, app=OWN, env=env, concurrency=3)
    relay = relay_of(worker)
    variables = Path(f"/proc/{relay}/environ").read_text().split("\0")
    assert not [one for one in variables if "PYTHONPATH=" in one and INSTRUMENTED in one]
    largest = 0.0
    for kill in range(KILLS):
        before = len(notes(tmp_path, "ended"))
        producer.run(f"""
for n in range(20): app.end_spans.delay(f"{kill}.{{n}}", 10)
result = None
""")
        wanted = before + chosen.randrange(1, 100)
        assert wait_until(partial(are_noted, tmp_path, wanted), timeout=LIMIT, tick=0.002)
        os.kill(chosen.choice(pool_children(worker)), signal.SIGKILL)
        largest = max(largest, megabytes(relay))
    producer.run("app.end_spans.delay('last', 1).get(timeout=90); result = None")
    largest = max(largest, megabytes(relay))
    assert worker.stop() == 0
    assert of_tasks(receiver.spans, tmp_path) == Counter(notes(tmp_path, "ended"))
    ours = [span for span in receiver.spans if span.name in notes(tmp_path, "ended")]
    assert {span.resource["service.name"] for span in ours} == {"instrumented"}
    assert largest <= MEGABYTES
