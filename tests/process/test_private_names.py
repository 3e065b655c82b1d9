"""Without any one of the private names that taskobs uses, a release of a library is as good.

A name is taken away by giving it another name in all modules of its library, before they are
imported (see `tests.support.renaming`): the library works, as its next release would, and taskobs
does not find the name, on a module, a class or an object. Only ``grpc._channel``, a module, is
hidden from taskobs alone. A name whose library isn't installed, or whose release lacks it, is
taken away already.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
from celery.worker.consumer import Consumer

from taskobs.celery import _compat as celery_names
from taskobs.internal.private_names import PrivateName
from taskobs.otel import _sdk_compat as otel_names
from taskobs.otel.app import _compat as exporter_names
from taskobs.otel.app import _metrics_compat as meter_names
from taskobs.sentry import _compat as sentry_names
from taskobs.testing.receiver import Receiver
from tests.live import services
from tests.live.celery_process import Broker, LiveApp, Producer, Worker, file_broker_in
from tests.live.process import wait_until
from tests.live.shop import QUICK
from tests.process.without_name import TAKEN
from tests.support.paths import ROOT
from tests.unit.relay.export.test_otlp_grpc import backend as grpc_backend

PATIENCE: Final = 120.0
PROGRAM: Final = "tests.process.without_name"
NAMES: Final = {
    f"{name.module}:{name.path}": name
    for name in (
        *(*celery_names.NAMES, *otel_names.NAMES),
        *(*exporter_names.NAMES, *sentry_names.NAMES),
        # The others are read in workers alone: see tests/unit/otel/app/test_readers.
        *(name for name in meter_names.NAMES if not name.of_instances),
    )
}
OF_A_WORKER: Final = [name for name in NAMES if "Request." in name or "redis" in name]
"""Names that matter where a real worker has a pool, or its results are in Redis.

They are taken away in two halves: a worker for each takes long.
"""
OF_SPANS: Final = [
    f"{name.module}:{name.path}"
    for name in otel_names.NAMES
    if name.of_instances and name.module in {"opentelemetry.sdk.trace", "opentelemetry.sdk.util"}
]
"""Names by which a worker's processes read the SDK's spans, to hand them to their relay."""
WARNING: Final = re.compile(r"taskobs: .* has no (\S+)")
PUBLISH: Final = """
app.add.delay(1, 2), app.fail.delay(), app.die.delay(), app.slow.apply_async((300,), expires=-1)
app.chord([app.eager_inner.s(1), app.eager_inner.s(2)])(app.total.s())
"""
ENDS: Final = {"add": 3, "fail": 1, "die": 1, "slow": 1, "eager_inner": 2, "total": 1}
"""How many runs of each task that gives; `eager_inner` runs `add`."""
SPANS: Final = {"publish add", "run add", "run fail"}


@dataclass(frozen=True)
class Result:
    """What a program without a name has printed, and what has arrived from it."""

    status: int
    log: str
    spans: dict[str, set[str]]
    """The names of the spans under taskobs' provider (``shop``) and under the app's (``own``)."""
    errors: int

    @property
    def missing(self) -> list[str]:
        """The names in the warnings."""
        return WARNING.findall(self.log)


@contextmanager
def span_backend(name: str, receiver: Receiver) -> Generator[tuple[dict[str, str], list[str]]]:
    """Give the settings of where spans go, and the list of those that came over gRPC."""
    if not (name.startswith("grpc") and find_spec("grpc")):
        yield {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}, []
        return
    came: list[str] = []
    with grpc_backend() as there:
        endpoint = f"http://127.0.0.1:{there.port}"
        yield (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            came,
        )
        came += [span for call in there.calls for span in call]


def run_without(name: str) -> Result:
    """Run the program without a name, and give what became of it."""
    ours = ("OTEL_", "SENTRY_", "TASKOBS_")
    foreign = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    with Receiver() as receiver:
        with span_backend(name, receiver) as (settings, over_grpc):
            more = {"WITHOUT": name, "SENTRY_DSN": receiver.dsn, "PYTHONPATH": str(ROOT)}
            own = {
                "OWN_ENDPOINT": f"{receiver.endpoint}/v1/traces",
                "TASKOBS_SHUTDOWN_TIMEOUT": "60",
            }
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", PROGRAM],
                env={**foreign, **settings, **more, **own},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        spans: dict[str, set[str]] = {"shop": set(over_grpc), "own": set()}
        for span in receiver.spans:
            of = "own" if span.resource["service.name"] == "own" else "shop"
            spans[of].add(span.name)
        return Result(done.returncode, done.stdout, spans, len(receiver.events))


def test_all_arrives_with_all_names() -> None:
    """With the releases that are installed there is nothing to warn of."""
    result = run_without("")
    assert result.status == 0, result.log
    assert result.missing == []
    assert result.spans == {"shop": SPANS, "own": SPANS}
    assert result.errors == 2


@pytest.mark.parametrize("name", NAMES)
def test_telemetry_arrives_without_a_name(name: str) -> None:
    """I upgrade a library that has renamed it: my tasks run, and I see them, or what I lose."""
    result = run_without(name)
    assert result.status == 0, result.log
    assert TAKEN in result.log or not is_there(NAMES[name]), result.log
    assert result.spans["shop"] >= SPANS, result.log
    assert result.spans["own"] >= SPANS or result.missing, result.log
    assert result.errors == 2, result.log
    expected = [name.replace(":", ".")]
    assert result.missing in ([], expected), result.log
    if not NAMES[name].of_instances and name not in HIDDEN_FROM_US and TAKEN in result.log:
        assert result.missing == expected, result.log


HIDDEN_FROM_US: Final = {"grpc._channel:Channel"}


def is_there(name: PrivateName) -> bool:
    """Tell whether the installed release of a library has a name in its module."""
    with suppress(ImportError):
        spec = find_spec(name.module)
        if spec is not None and spec.origin is not None:
            words = re.findall(r"\w+", Path(spec.origin).read_text())
            return name.path.rpartition(".")[2] in words
    return False


# In a worker: one name after the other, and those of the SDK's spans together.


@contextmanager
def broker_of_a_worker(folder: Path) -> Generator[Broker]:
    """Give a Redis server; a broker in a folder where there is no program of it."""
    try:
        with services.redis(folder) as server:
            yield Broker("redis", server.url(), server.url())
    except services.Missing:
        yield file_broker_in(folder / "broker")


@contextmanager
def worker_without(*names: str, folder: Path) -> Generator[tuple[Worker, Producer, Receiver]]:
    """Run a worker without some names, and a producer that has them all."""
    with Receiver() as receiver, broker_of_a_worker(folder) as broker:
        if names[0] in OF_SPANS and broker.kind == "file":
            # Two exporters are two threads of each child. Without an event loop for the broker,
            # one that is terminated may then die while it holds the lock of the pool's results,
            # and no other child ends a task any more (billiard 4.3.2, without taskobs too).
            pytest.skip("no redis-server")
        with LiveApp(folder, receiver.endpoint, receiver.dsn) as live:
            # A process that died is reported after this time, which is 10 s by default.
            config = json.dumps({"worker_lost_wait": 1.0})
            env = {"WITHOUT": " ".join(names), "APP_CONFIG": config, **QUICK}
            if names[0] in OF_SPANS:
                # A second exporter has all spans be the SDK's own.
                env["OTEL_TRACES_EXPORTER"] = "otlp,console"
            worker = live.worker(broker, env=env, script=PROGRAM)
            yield worker, live.producer(broker), receiver


def runs(receiver: Receiver) -> Counter[str]:
    """Count the spans of runs, by the task."""
    found = (span.name.rpartition(".")[2] for span in receiver.spans if span.kind == "consumer")
    return Counter(found)


TOLD_AT_COLD_STOP: Final = not any(name.startswith("cancel_a") for name in vars(Consumer))
"""Before 5.5 Celery doesn't cancel what runs: it finds that process dead, and says so as of any."""


@pytest.mark.live
@pytest.mark.parametrize(
    "names", [OF_A_WORKER[::2], OF_A_WORKER[1::2], OF_SPANS], ids=lambda n: n[0]
)
def test_a_worker_reports_each_run_without_a_name(names: list[str], tmp_path: Path) -> None:
    """Each run is one span, also of a process that died, and of what was revoked or cancelled."""
    with worker_without(*names, folder=tmp_path) as (worker, producer, receiver):
        producer.run(PUBLISH)
        assert receiver.wait_for(lambda r: set(ENDS) <= set(runs(r)), PATIENCE), worker.tail()
        hold(producer, tmp_path / "1")
        producer.run("revoked = given")
        hold(producer, tmp_path / "2")
        producer.run("revoked.revoke(terminate=True)")
        assert receiver.wait_for(lambda r: runs(r)["hold"] == 1, PATIENCE), worker.tail()
        worker.stop("QUIT")
        assert receiver.wait_for(lambda r: runs(r)["hold"] == 2, PATIENCE), worker.tail()
        counted = runs(receiver)
        assert counted == {**ENDS, "hold": 2}, f"{dict(counted)}"
        errors = Counter(map(str, (error_of(event.data) for event in receiver.events)))
        assert (errors["ValueError"], errors["WorkerLostError"]) == (1, 1 + TOLD_AT_COLD_STOP), (
            errors
        )
        missing = {name.replace(":", ".") for name in names if is_said_to_be_missing(NAMES[name])}
        assert set(WARNING.findall(worker.log)) == missing, worker.tail()
        assert TAKEN in worker.log or not any(is_there(NAMES[name]) for name in names)


def is_said_to_be_missing(name: PrivateName) -> bool:
    """Tell whether a worker warns without a name: not of one that a later release has first."""
    return not name.of_instances and (not name.since or is_there(name))


def hold(producer: Producer, where: Path) -> None:
    """Publish a task that stays, as ``given``, and wait until it runs."""
    where.mkdir()
    task_id = producer.run(f"given = app.hold.delay({str(where)!r}); result = given.id")
    assert wait_until((where / task_id).exists, timeout=PATIENCE)


def error_of(event: object) -> object:
    found: Any = event
    return found["exception"]["values"][-1]["type"]
