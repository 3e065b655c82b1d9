"""``taskobs view`` as a user sees it: a headless browser that clicks."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from taskobs.view.serving.server import ViewServer
from taskobs.view.storage.store import MEBIBYTE
from tests.live import browser as browsers
from tests.live.celery_process import SHOP
from tests.live.conftest import skip_if_missing
from tests.live.process import LIMIT, Program, wait_until
from tests.live.services import fetch, listens
from tests.live.view_page import identity, page_port
from tests.support import demo
from tests.support.view import serving

if TYPE_CHECKING:
    from collections.abc import Generator

    from taskobs.testing.wire import ReceivedSpan
    from tests.live.browser import Browser
    from tests.live.celery_process import Broker, LiveApp

HOSTILE = "<img src=x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The address of a driver of browsers."""
    with contextlib.ExitStack() as stack:
        with skip_if_missing():
            address = stack.enter_context(browsers.driver(tmp_path_factory.mktemp("chromium")))
        yield address


@pytest.fixture
def browser(driver: str) -> Generator[Browser]:
    """A new window, whose console must have nothing to say against the page at the end."""
    with browsers.Browser(driver) as opened:
        yield opened
        assert opened.errors() == []


@pytest.fixture
def server() -> Generator[ViewServer]:
    """A page that nothing sends to but the test."""
    with serving() as opened:
        yield opened


@pytest.fixture
def port() -> Generator[int]:
    """A port whose page has ended at the end of the test, one way or the other."""
    with page_port() as chosen:
        yield chosen


class Viewed:
    """Starts the processes of the tests' app, each by ``taskobs view``."""

    def __init__(self, live: LiveApp, broker: Broker, port: int, *options: str) -> None:
        self._folder = live.folder
        # Destinations that must not count.
        self._env = live.environment(broker, {"SENTRY_DSN": "http://k@127.0.0.1:1/1"})
        self._view = [sys.executable, "-m", "taskobs", "view", "--port", str(port), "--stay", "0"]
        self._view += options

    def start(self, name: str, *command: str) -> Program:
        line = [*self._view, "--", sys.executable, *command]
        return Program(line, log=self._folder / f"{name}.log", env=self._env, cwd=self._folder)

    def worker(self) -> Program:
        options = ["-P", "solo", "-l", "INFO", "--without-mingle", "--without-gossip"]
        return self.start("worker", "-m", "celery", "-A", SHOP, "worker", *options)

    def publisher(self, source: str) -> Program:
        return self.start("web", "-c", f"from {SHOP} import *\n{source}")

    def publish(self, source: str) -> None:
        with self.publisher(source) as web:
            assert web.wait() == 0, web.tail()


ATTEMPTS = [
    ["Attempt 1", "↻ retried"],
    ["Attempt 2", "↻ retried"],
    ["Attempt 3", "✓ succeeded"],
]


def attempts(browser: Browser) -> list[list[str]]:
    return [text.split("\n")[:2] for text in browser.texts(".attempt")]


def titles(browser: Browser) -> list[str]:
    return browser.texts("#list .entry .head b")


def test_a_failure_is_followed_from_the_list_to_its_line(
    live: LiveApp, file_broker: Broker, port: int, browser: Browser
) -> None:
    """My worker and my web process are on one page: I click from a failure to its source."""
    viewed = Viewed(live, file_broker, port)
    with viewed.worker() as worker:
        worker.wait_log(" ready.")
        browser.open(f"http://localhost:{port}/")
        browser.wait_text("#summary", f"celery ({worker.pid})")
        viewed.publish(f"fail.delay('no funds'); app.send_task({HOSTILE!r})")
        browser.wait_text("#list", f"publish {SHOP}.fail")

        # The failure: its waterfall, its event with frames and tags, its log lines.
        browser.click("#list .entry", f"publish {SHOP}.fail")
        browser.wait_text(".issue .title", "ValueError")
        assert browser.text(".issue .line.here").strip().endswith("raise ValueError(message)")
        assert f"celery.task\n{SHOP}.fail" in browser.text(".issue .tags")
        browser.wait_text(".logs", "raised unexpected: ValueError('no funds')")
        browser.wait_text("#list .entry[aria-current='true']", "✗ failed")
        assert "queued" in browser.text("#list .entry[aria-current='true']")
        browser.click(".row.publish")
        browser.wait_text("#detail h2", f"publish {SHOP}.fail")
        browser.click(".issue .to", "span ")
        browser.wait_text("#detail h2", f"run {SHOP}.fail")
        browser.wait_text("#detail .pill", "failed")

        # The retries, side by side.
        viewed.publish("retry_then_ok.delay(2)")
        browser.click("#list .entry", "retry_then_ok")
        browser.wait(lambda: attempts(browser) == ATTEMPTS, "three attempts, the last one good")
        browser.click(".attempt", "Attempt 2")
        browser.wait_text("#detail .pill", "retried")

        # A name that is markup is a name.
        browser.click("#list .entry", HOSTILE)
        browser.wait_text(".trace h2", HOSTILE)
        assert browser.run("return [document.title, document.images.length]") == [
            "taskobs view",
            0,
        ]
        worker.stop()
    # The browser still shows the page, so it is still there; then nobody uses it.
    assert listens(port)
    browser.reload()
    browser.wait_text("#list", "retry_then_ok")
    browser.open("about:blank")


def runs(first: int, number: int, **more: Any) -> list[ReceivedSpan]:
    made: list[ReceivedSpan] = []
    for one in range(first, first + number):
        span = demo.span(one, f"run task{one}", outcome="succeeded", celery__task_id=f"id-{one}-")
        made.append(replace(span, trace_id=f"{one:032x}", **more))
    return made


def test_the_page_follows_without_a_gap(server: ViewServer, browser: Browser) -> None:
    """Nothing is lost or doubled: while I wait, pause, search, reload, and ask for older ones."""
    address = f"http://127.0.0.1:{server.server_port}/"
    browser.open(address)
    browser.wait_text("#nothing", "Nothing has arrived yet.")
    assert "OTEL_EXPORTER_OTLP_ENDPOINT=" + address[:-1] in browser.text("#nothing")
    assert "taskobs.init(otlp_endpoint=…" in browser.text("#nothing")

    server.store.take([*demo.order(), demo.event()])
    browser.wait(lambda: titles(browser) == ["POST /orders"], "the first trace")
    assert browser.text("#nothing") == ""
    browser.wait_text(".trace h2", "POST /orders")  # chosen by itself
    assert f"trace={demo.TRACE}" in browser.url

    for first in range(1, 151, 10):  # more than the list has room for
        server.store.take(runs(first, 10))
    newest = [f"run task{one}" for one in range(150, 0, -1)]
    browser.wait(lambda: titles(browser) == newest[:100], "the newest hundred")
    browser.click("#older")
    everything = [*newest, "POST /orders"]
    browser.wait(lambda: titles(browser) == everything, "all")

    browser.click("#follow")
    server.store.take(runs(151, 1))
    assert titles(browser) == everything
    browser.click("#follow")
    browser.wait(lambda: titles(browser) == ["run task151", *everything], "what came meanwhile")

    browser.type("#text", "ID-15")
    found = ["run task151", "run task150", "run task15"]
    browser.wait(lambda: titles(browser) == found, "those whose id begins so")
    server.store.take(runs(152, 1))
    browser.wait(lambda: titles(browser) == ["run task152", *found], "one more that is found")
    browser.reload()
    browser.wait(lambda: titles(browser) == ["run task152", *found], "the search, as before")
    assert browser.run("return document.getElementById('text').value") == "ID-15"
    browser.wait_text(".trace h2", "POST /orders")
    browser.run("location.hash = '#outcome=failed'")
    browser.wait(lambda: titles(browser) == ["POST /orders"], "the failed one")
    browser.type("#text", "no such name")
    browser.wait_text("#nothing", "No trace matches the search.")


def test_the_page_says_what_it_no_longer_has(server: ViewServer, browser: Browser) -> None:
    """The list loses what is dropped, and the page says so; so it does when the server ends."""
    port = server.server_port
    server.store.take(demo.order())
    browser.open(f"http://127.0.0.1:{port}/#trace={demo.TRACE}")
    browser.wait_text(".trace h2", "POST /orders")
    pad = {"message": "x" * 4000}
    server.store.take(runs(1, 300, **pad))
    browser.wait(lambda: titles(browser)[:1] == ["run task300"], "the newest")
    kept = server.store.totals()["traces"]
    dropped = f"Oldest traces dropped: {1 + 300 - kept}. The page keeps 1.0 MiB; --memory sets"
    browser.wait_text("#notices", dropped)
    browser.click("#older")
    browser.wait(lambda: len(titles(browser)) == kept, "no trace that is not kept")
    server.close()
    browser.wait_text("#notices", "The page's server has ended.")
    assert len(titles(browser)) == kept
    with serving(ViewServer(port, limit=MEBIBYTE, stay=0)) as again:
        again.store.take(runs(500, 1))
        browser.wait(lambda: titles(browser) == ["run task500"], "what the new one has")
        browser.wait_text("#notices", "The page was started again")
    browser.open("about:blank")
    # The console has the requests that met no server, and that for a trace that was dropped.
    assert all("net::ERR_" in error or "404" in error for error in browser.errors())


RUN, EXPORTED = 1000, 4000
"""Tasks: by a real worker, and as spans of the stock exporter, which takes a tenth of the time."""
CHUNK = 250
"""What is sent before the follower is asked again: whoever never asks may miss what is dropped."""
MEMORY = 16
"""MiB: more than the first 1,000 tasks take, and less than half of all."""


def ask(port: int, path: str) -> Any:
    return fetch(f"http://127.0.0.1:{port}{path}")


class Follower:
    """Asks as the page does, and keeps what it was told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cursor = 0
        self.succeeded: set[str] = set()
        self.revisions: list[int] = []

    def has_all(self, number: int) -> bool:
        """Ask once; whether this many runs have succeeded."""
        answer = ask(self._port, f"/api/changes?after={self._cursor}&wait=1")
        self._cursor = answer["cursor"]
        for one in answer["traces"]:
            self.revisions.append(one["revision"])
            if one["outcomes"] == {"succeeded": 1}:
                self.succeeded.add(one["trace_id"])
        return len(self.succeeded) == number


def resident(pid: int) -> int:
    """The memory of a process now, in bytes."""
    pages = (Path("/proc") / str(pid) / "statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


def export(port: int, number: int) -> None:
    """Send the spans of tasks as a process without a relay does, by the stock exporter."""
    exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{port}/v1/traces")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=3 * number))
    tracer = provider.get_tracer("shop")
    for one in range(number):
        attributes = {"celery.task_id": f"exported-{one}", "celery.outcome": "succeeded"}
        with (
            tracer.start_as_current_span("publish shop.pack"),
            tracer.start_as_current_span("run shop.pack", attributes=attributes),
        ):
            pass
    assert provider.force_flush(int(LIMIT * 1000))
    provider.shutdown()


def test_five_thousand_tasks(live: LiveApp, redis_broker: Broker, port: int) -> None:
    """I follow 5,000 tasks on a page with room for fewer: none is missed, and memory stays."""
    viewed = Viewed(live, redis_broker, port, "--memory", str(MEMORY))
    sizes: list[int] = []
    with viewed.worker() as worker:
        worker.wait_log(" ready.")
        server, follower = identity(port)["pid"], Follower(port)
        with viewed.publisher(f"for number in range({RUN}): add.delay(number, 1)") as web:
            assert wait_until(partial(follower.has_all, RUN), timeout=LIMIT), worker.tail()
            assert web.wait() == 0, web.tail()
        for sent in range(CHUNK, EXPORTED + 1, CHUNK):
            export(port, CHUNK)
            assert wait_until(partial(follower.has_all, RUN + sent), timeout=LIMIT)
            sizes.append(resident(server))
        totals = ask(port, "/api/traces")["totals"]
        worker.stop()
    assert len(follower.revisions) == len(set(follower.revisions)), "a state was told twice"
    assert totals["span"] == 2 * (RUN + EXPORTED)
    assert totals["bytes"] <= totals["limit"] == MEMORY * MEBIBYTE
    assert totals["dropped_traces"] >= RUN + EXPORTED - totals["traces"] > 0
    assert sizes[-1] < 1.2 * sizes[len(sizes) // 2]
