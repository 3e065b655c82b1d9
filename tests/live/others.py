"""What tests beside other observers share: how they are started, and what must be whole."""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from taskobs import semconv
from tests.live.process import LIMIT
from tests.live.services import HOST
from tests.live.shop import QUICK, Shop, tags, trace_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

    from taskobs.testing.receiver import Receiver
    from taskobs.testing.wire import ReceivedSpan
    from tests.live.celery_process import Broker, LiveApp

APP = "tests.live.apps.others"
TASKS = "tests.live.apps.shop."
ORDER = """
sent = [app.child_span.delay("inner"), app.fail.delay(), app.calls_add.delay(1, 2)]
for one in sent:
    one.get(timeout=90, propagate=False)
app.app.AsyncResult(sent[-1].result).get(timeout=90)
result = sent[1].id
"""
"""Publishes a task with a span of the app's own, one that fails, and one that publishes another."""
WHOLE = Counter(
    {
        ("publish child_span", ""): 1,
        ("run child_span", "publish child_span"): 1,
        ("inner", "run child_span"): 1,
        ("publish fail", ""): 1,
        ("run fail", "publish fail"): 1,
        ("publish calls_add", ""): 1,
        ("run calls_add", "publish calls_add"): 1,
        ("publish add", "run calls_add"): 1,
        ("run add", "publish add"): 1,
    }
)
"""The spans of it, each with its parent's name."""


class Beside:
    """A worker and a producer beside another observer, in the environment where that is installed.

    ``under`` is the command of its own under which both run, such as ``ddtrace-run``.
    """

    def __init__(self, live: LiveApp, broker: Broker, receiver: Receiver, programs: Path) -> None:
        self.live = live
        self.broker = broker
        self.receiver = receiver
        self.programs = programs

    def start(self, neighbour: str, *args: str, under: Sequence[str] = (), **env: str) -> Shop:
        """Start both; ``args`` go to ``celery worker``, ``env`` to both."""
        program, *options = under or ("",)
        command = [str(self.programs / program), *options] if program else []
        self.live.launcher = (*command, str(self.programs / "python"))
        full = {**QUICK, "APP_NEIGHBOUR": neighbour, **env}
        # First what is not waited for: both import their libraries meanwhile.
        producer = self.live.producer(self.broker, app=APP, env=full)
        worker = self.live.worker(self.broker, *args, concurrency=1, app=APP, env=full)
        return Shop(self.live, self.broker, self.receiver, worker, producer)


def close(shop: Shop) -> None:
    """Let both end by themselves: all that they have recorded is sent."""
    assert shop.producer.close() == 0, shop.producer.program.tail()
    assert shop.worker.stop() == 0, shop.worker.tail()


def tree(spans: Iterable[ReceivedSpan]) -> Counter[tuple[str, str]]:
    """Count the spans of publishes and runs, and the app's own, by name and parent's name."""
    spans = list(spans)
    names = {(span.trace_id, span.span_id): span.name.replace(TASKS, "") for span in spans}
    return Counter(
        (
            span.name.replace(TASKS, ""),
            names.get((span.trace_id, span.parent_id), span.parent_id and "?"),
        )
        for span in spans
        if span.name == "inner" or (span.scope == semconv.STOCK_SCOPE and TASKS in span.name)
    )


def runs(spans: Iterable[ReceivedSpan]) -> list[tuple[str, ReceivedSpan]]:
    """Give the spans of runs of the shop's tasks, each with the task's short name."""
    prefix = f"run {TASKS}"
    return [
        (span.name.removeprefix(prefix), span) for span in spans if span.name.startswith(prefix)
    ]


def assert_told_once(receiver: Receiver, failed: str) -> None:
    """The order is whole: each span once, under its parent, and one event on its run's span."""
    assert tree(receiver.spans) == WHOLE
    [event] = receiver.events
    assert tags(event)[semconv.TAG_TASK_ID] == failed
    [run] = [run for name, run in runs(receiver.spans) if name == "fail"]
    assert trace_of(event) == (run.trace_id, run.span_id)
    assert run.attributes[semconv.SENTRY_EVENT_ID] == event.event_id


class DatadogAgent:
    """Takes what ddtrace sends to its agent, and keeps the spans."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{HOST}:{port}"
        self._changed = threading.Condition()
        self._spans: list[dict[str, Any]] = []

    @property
    def spans(self) -> list[dict[str, Any]]:
        """All spans so far, as ddtrace writes them."""
        with self._changed:
            return list(self._spans)

    def take(self, traces: Iterable[Iterable[dict[str, Any]]]) -> None:
        """Keep the spans of a request."""
        with self._changed:
            self._spans.extend(span for trace in traces for span in trace)
            self._changed.notify_all()

    def wait_for(self, predicate: Callable[[list[dict[str, Any]]], bool]) -> bool:
        """Wait until ``predicate`` is true of the spans; say whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: predicate(self._spans), LIMIT)


def _unpacked(body: bytes) -> Any:
    library: Any = import_module("msgpack")  # it has no types
    return library.unpackb(body, strict_map_key=False)


class _AgentServer(ThreadingHTTPServer):
    agent: DatadogAgent


class _AgentHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({"version": "7.60.0", "endpoints": ["/v0.4/traces"]})

    def do_PUT(self) -> None:
        body = self._body()
        if self.path == "/v0.4/traces":
            cast("_AgentServer", self.server).agent.take(_unpacked(body))
        self._answer({"rate_by_service": {}})

    do_POST = do_PUT  # noqa: N815  # the name that the base class calls

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None: ...


@contextmanager
def datadog_agent() -> Generator[DatadogAgent]:
    """Run an agent for ddtrace."""
    with _AgentServer((HOST, 0), _AgentHandler) as server:
        server.agent = DatadogAgent(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.agent
        finally:
            server.shutdown()
            thread.join()
