"""``taskobs doctor`` with real brokers, workers and servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.live.process import LIMIT, Program, wait_until
from tests.live.test_examples import NEEDS, processes
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskobs.testing.receiver import Receiver
    from tests.live import services

APP = "tests.live.apps.doctored"
EXAMPLES = {
    "flask_app": ("wsgi:celery", "-P", "gevent"),
    "fastapi_app": ("shop.tasks",),
    "django_app": ("shop",),
}
THEIRS = "celery"
"""The queue of the user's, with a message that nobody may take."""


def start(folder: Path, *args: str, cwd: Path | None = None, **env: str) -> Program:
    """Start the command, with these variables of taskobs and no others."""
    foreign = ("OTEL_", "SENTRY_", "TASKOBS_", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    command = [sys.executable, "-m", "taskobs", "doctor", "-A", *args]
    return Program(
        command, log=folder / "doctor.log", env={**kept, "PYTHONPATH": str(ROOT), **env}, cwd=cwd
    )


def doctor(
    folder: Path, *args: str, cwd: Path | None = None, **env: str
) -> tuple[int, dict[str, Any]]:
    """Run it to its end; give its exit status and what it has found."""
    with start(folder, *args, "--json", "--timeout", "90", cwd=cwd, **env) as program:
        status = program.wait()
        log = program.log
    assert "{\n" in log, log
    found: dict[str, Any] = json.loads(log[log.index("{\n") :])
    return status, found


def of(report: Mapping[str, Any], *statuses: str) -> dict[str, Any]:
    """Give the findings with one of these statuses, by their names."""
    return {one["name"]: one for one in report["findings"] if one["status"] in statuses}


def not_fine(report: Mapping[str, Any]) -> dict[str, Any]:
    return of(report, "warning", "broken", "unknown")


def put_theirs(url: str) -> None:
    client(url).rpush(THEIRS, "a message of the user's")


def left_in(url: str) -> dict[str, int]:
    """Give the keys that are in a Redis database, each with the length of its list."""
    found = client(url)
    return {key.decode(): found.llen(key) for key in found.keys("*")}


def client(url: str) -> Any:
    redis: Any = pytest.importorskip("redis")
    return redis.Redis.from_url(url)


def example(name: str, folder: Path, url: str) -> dict[str, str]:
    """Make an example ready to run; give its variables."""
    missing = [one for one in NEEDS[name] if find_spec(one) is None]
    if missing:
        pytest.skip(f"{name} needs {missing}")
    env = {"CELERY_BROKER_URL": url, "SHOP_FOLDER": str(folder), "PYTHONPATH": str(ROOT)}
    for process, command in processes(ROOT / "examples" / name).items():
        if process not in {"web", "worker", "beat"}:  # as those that make tables
            words = [sys.executable, *command[command[0] == "python" :]]
            cwd, environ = ROOT / "examples" / name, {**os.environ, **env}
            subprocess.run(words, cwd=cwd, env=environ, check=True, timeout=LIMIT)
    return env


@pytest.mark.parametrize("name", ["flask_app", "fastapi_app"])
def test_an_example_is_fine(
    name: str, redis_server: services.Redis, receiver: Receiver, tmp_path: Path
) -> None:
    """Nothing is found; a trace and an event arrive; my queue is as it was, and all else gone."""
    url = redis_server.url()
    put_theirs(url)
    env = example(name, tmp_path, url)
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "SENTRY_DSN": receiver.dsn}
    env["TASKOBS_RELAY_SPOOL"] = str(tmp_path / "spool")
    status, report = doctor(tmp_path, *EXAMPLES[name], cwd=ROOT / "examples" / name, **env)
    assert not_fine(report) == {}
    assert status == 0
    assert left_in(url) == {THEIRS: 1}
    assert not list((tmp_path / "spool").rglob("taskobs-doctor-*"))
    task = "taskobs.doctor.probe"
    spans = {span.name: span for span in receiver.spans if span.trace_id == report["trace_id"]}
    assert spans.keys() >= {"taskobs doctor", f"publish {task}", f"run {task}"}
    assert spans[f"run {task}"].parent_id == spans[f"publish {task}"].span_id
    [event] = receiver.events
    contexts: Any = event.data["contexts"]
    assert contexts["trace"]["trace_id"] == report["trace_id"]


def test_an_example_with_jaeger_and_bugsink_is_fine(
    redis_server: services.Redis,
    jaeger: services.Jaeger,
    bugsink: services.Bugsink,
    tmp_path: Path,
) -> None:
    """Jaeger takes no metrics, which is said, with a line; with that line all is fine."""
    url, project = redis_server.url(), bugsink.project()
    env = example("django_app", tmp_path, url)
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.endpoint, "SENTRY_DSN": project.dsn}
    cwd = ROOT / "examples/django_app"
    _, before = doctor(tmp_path, *EXAMPLES["django_app"], "--no-probe", cwd=cwd, **env)
    fix = of(before, "warning")["metrics"]["fix"].removeprefix("export ")
    variable, _, value = fix.partition("=")
    (tmp_path / "doctor.log").unlink()
    status, report = doctor(tmp_path, *EXAMPLES["django_app"], cwd=cwd, **env, **{variable: value})
    assert not_fine(report) == {}
    assert status == 0
    assert left_in(url) == {}
    jaeger.trace(report["trace_id"], spans=3)
    [event] = project.events(1)
    assert event["contexts"]["trace"]["trace_id"] == report["trace_id"]
    assert event["exception"]["values"][-1]["type"] == "ProbeError"


def test_nothing_is_left_in_rabbitmq(
    rabbitmq_server: services.RabbitMQ, receiver: Receiver, tmp_path: Path
) -> None:
    """No queue, no exchange: not even that of replies, where results are messages."""
    url = rabbitmq_server.url()
    env = {"APP_BROKER": url, "APP_BACKEND": "rpc://", "APP_BROKER_OPTIONS": "{}"}
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "SENTRY_DSN": receiver.dsn}
    status, report = doctor(tmp_path, "tests.live.apps.shop", cwd=tmp_path, **env)
    assert not_fine(report) == {}
    assert status == 0
    host = url.rpartition("/")[2]

    def left() -> list[str]:
        kinds = ("queues", "exchanges")
        found = [one["name"] for kind in kinds for one in rabbitmq_server.api(f"/{kind}/{host}")]
        return [name for name in found if name and not name.startswith("amq.")]

    # RabbitMQ deletes what is exclusive to a connection once it has seen the end of that.
    assert wait_until(lambda: not left(), timeout=LIMIT), left()


def test_many_faults_of_one_app_are_all_found(
    redis_server: services.Redis, receiver: Receiver, tmp_path: Path
) -> None:
    """Headers that are dropped, keys that are refused, logging without ids, and more at once."""
    url = redis_server.url()
    receiver.behave("/v1/traces", status=401)
    receiver.behave("/api/", status=403)
    env = {
        "APP_BROKER": url.replace("redis://", "dropping://"),
        "APP_FAULT": "many",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20t0k3n-of-mine",
        "SENTRY_DSN": receiver.dsn.replace("demo", "c0ffee-c0ffee"),
        "TASKOBS_SAMPLE_RATE": "1",
    }
    status, report = doctor(tmp_path, APP, "-P", "threads", cwd=tmp_path, **env)
    assert status == 1
    broken, warnings = of(report, "broken"), of(report, "warning")
    assert broken.keys() == {
        *("traces", "errors", "pool_signals", "headers"),
        *("publish_span", "run_span", "event", "one_trace"),
    }
    assert warnings.keys() == {"settings", "eager", "log_setup", "events"}
    fixes = {name: one["fix"] for name, one in (broken | warnings).items()}
    assert all(fixes.values())
    assert fixes["traces"].startswith("export OTEL_EXPORTER_OTLP_HEADERS=")
    assert fixes["errors"].startswith("copy the DSN anew")
    assert fixes["pool_signals"].startswith("@signals.worker_init.connect")
    assert "trace_id=%(trace_id)s" in fixes["log_setup"]
    assert "HTTP 401" in broken["run_span"]["what"]
    assert "HTTP 403" in broken["event"]["what"]
    log = (tmp_path / "doctor.log").read_text()
    assert "t0k3n" not in log
    assert "c0ffee" not in log
    assert left_in(url) == {}


def test_a_worker_that_does_not_start_is_found(
    redis_server: services.Redis, receiver: Receiver, tmp_path: Path
) -> None:
    """The worker's own words are shown, and the message that nobody took is gone."""
    url = redis_server.url()
    env = {"APP_BROKER": url, "APP_FAULT": "start"}
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "TASKOBS_RELAY": "0"}
    status, report = doctor(tmp_path, APP, cwd=tmp_path, **env)
    assert status == 1
    assert of(report, "broken").keys() == {"worker", "run"}
    assert "there are no tables" in of(report, "broken")["worker"]["what"]
    assert left_in(url) == {}


def test_ctrl_c_leaves_nothing(
    redis_server: services.Redis, receiver: Receiver, tmp_path: Path
) -> None:
    """I lose my patience while the worker starts: no message, no worker, no folder is left."""
    url, started = redis_server.url(), tmp_path / "started"
    folder = tmp_path / "temporary"
    folder.mkdir()
    env = {"APP_BROKER": url, "APP_FAULT": "slow", "APP_STARTED": str(started)}
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "TMPDIR": str(folder)}
    with start(tmp_path, APP, cwd=tmp_path, **env) as program:
        program.wait_ready(lambda: started.exists() and bool(left_in(url)))
        program.signal("INT")
        assert program.wait() == 2, program.tail()
    assert left_in(url) == {}
    assert not list(folder.glob("taskobs-doctor-*"))
    worker = Path(f"/proc/{started.read_text()}")
    assert wait_until(lambda: not worker.exists(), timeout=LIMIT)
