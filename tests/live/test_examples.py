"""The examples with real servers: a request, its publish, its run and their SQL are one trace."""

from __future__ import annotations

import secrets
import shlex
import sys
import urllib.request
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.live.process import LIMIT, Program, wait_until
from tests.live.services import HOST, free_port, listens
from tests.support.paths import ROOT
from tests.support.unmeasured import unmeasured

if TYPE_CHECKING:
    from tests.live import services

CALLER = "00f067aa0ba902b7"
DECLINED = 1002
TASK = "shop.tasks.charge_card"
NEEDS = {
    "flask_app": ("flask_sqlalchemy", "gevent", "opentelemetry.instrumentation.sqlalchemy"),
    "django_app": ("django_celery_results", "opentelemetry.instrumentation.sqlite3"),
    "fastapi_app": ("uvicorn", "opentelemetry.instrumentation.sqlite3"),
}
READY = {"worker": " ready.", "beat": "beat: Starting..."}


def processes(folder: Path) -> dict[str, list[str]]:
    """Read the commands that an example's processes are started by."""
    lines = (folder / "Procfile").read_text(encoding="utf-8").splitlines()
    named = (line.split(": ", 1) for line in lines)
    return {name: shlex.split(command) for name, command in named}


def start(stack: ExitStack, folder: Path, logs: Path, env: dict[str, str]) -> int:
    """Start an example's processes one after the other; give the port of its pages."""
    port = free_port()
    for name, (program, *arguments) in processes(folder).items():
        words = [word.replace("$PORT", str(port)) for word in arguments]
        module = [] if program == "python" else ["-m", program]
        command = [sys.executable, *module, *words]
        started = Program(command, log=logs / f"{name}.log", env=env, cwd=folder)
        process = stack.enter_context(started)
        if name == "web":
            process.wait_ready(lambda: listens(port))
        elif name in READY:
            process.wait_log(READY[name])
        else:
            assert process.wait() == 0, process.tail()
    return port


def post(port: int, path: str, trace_id: str) -> None:
    """Order something, within a trace of the caller's."""
    headers = {"traceparent": f"00-{trace_id}-{CALLER}-01"}
    request = urllib.request.Request(f"http://{HOST}:{port}/{path}", headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:  # noqa: S310
        assert answer.status == 202


def parent(span: dict[str, Any]) -> str:
    """Give the id of a span's parent."""
    [found] = [ref["spanID"] for ref in span["references"] if ref["refType"] == "CHILD_OF"]
    return str(found)


def is_whole(trace: dict[str, Any]) -> bool:
    """Tell whether a trace has the request, the publish, the run and what both do in SQL."""
    names = {span["operationName"] for span in trace["spans"]}
    has_request = any(name.startswith("POST ") for name in names)
    has_sql = {"INSERT", "UPDATE"} <= {words.split()[0] for _, words in statements(trace)}
    # A span that ends before its parent arrives before it.
    ids = {CALLER, *(span["spanID"] for span in trace["spans"])}
    has_parents = {parent(span) for span, _ in statements(trace)} <= ids
    return has_request and has_sql and has_parents and {f"publish {TASK}", f"run {TASK}"} <= names


def statements(trace: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Give the spans that have a statement of SQL, each with that."""
    names = {"db.statement", "db.query.text"}
    return [
        (span, str(tag["value"]))
        for span in trace["spans"]
        for tag in span["tags"]
        if tag["key"] in names
    ]


@pytest.mark.parametrize("name", NEEDS)
def test_request_publish_run_and_sql_are_one_trace(
    name: str,
    redis_server: services.Redis,
    jaeger: services.Jaeger,
    bugsink: services.Bugsink,
    tmp_path: Path,
) -> None:
    """I start an example with the servers of its compose file, and order with a declined card."""
    missing = [one for one in NEEDS[name] if find_spec(one) is None]
    if missing:
        pytest.skip(f"{name} needs {missing}")
    project, folder = bugsink.project(), ROOT / "examples" / name
    trace_id = secrets.token_hex(16)
    env = {
        **unmeasured(),
        "CELERY_BROKER_URL": redis_server.url(),
        "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "PYTHONPATH": str(ROOT),
        "SENTRY_DSN": project.dsn,
        "SHOP_FOLDER": str(tmp_path),
        "TASKOBS_SHUTDOWN_TIMEOUT": "30",
    }
    with ExitStack() as stack:
        port = start(stack, folder, tmp_path, env)
        post(port, f"orders/{DECLINED}", trace_id)
        [event] = project.events(1)
    # Web and worker send their spans on their own.
    assert wait_until(lambda: is_whole(jaeger.trace(trace_id)), timeout=LIMIT)
    trace = jaeger.trace(trace_id)
    spans = {span["spanID"]: span for span in trace["spans"]}
    [run] = [span for span in spans.values() if span["operationName"] == f"run {TASK}"]
    publish = spans[parent(run)]
    assert publish["operationName"] == f"publish {TASK}"
    request = spans[parent(publish)]
    assert request["operationName"].startswith("POST ")
    assert parent(request) == CALLER
    within = {
        (words.split()[0], spans[parent(span)]["operationName"])
        for span, words in statements(trace)
    }
    assert {("INSERT", request["operationName"]), ("UPDATE", f"run {TASK}")} <= within
    assert event["contexts"]["trace"]["trace_id"] == trace_id
    assert event["contexts"]["trace"]["span_id"] == run["spanID"]
    assert event["tags"]["celery.task"] == TASK
