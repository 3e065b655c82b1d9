"""Every test: leaves nothing of ours behind. At the end: what was skipped, and what it needs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import sysconfig
import threading
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery import signals
from celery.utils.dispatch import Signal
from opentelemetry import trace
from xdist.scheduler import LoadScopeScheduling

from tests.live.process import LASTING, wait_until

if TYPE_CHECKING:
    from collections.abc import Generator

    from xdist.remote import Producer
    from xdist.workermanage import WorkerController

OURS = ("taskobs", "OtelBatchSpanRecordProcessor", "sentry-sdk")
PATIENCE = 30.0
"""Seconds that a thread or process which is on its way out may still take."""


def our_receivers() -> set[str]:
    """Name the receivers of ours that are connected to Celery's signals."""
    every = (value for value in vars(signals).values() if isinstance(value, Signal))
    connected = (str(key[0]) for signal in every for key, _ in signal.receivers or ())
    return {uid for uid in connected if uid.startswith("taskobs")}


def our_threads() -> set[threading.Thread]:
    """Give the running threads whose names say that they are ours."""
    return {thread for thread in threading.enumerate() if thread.name.startswith(OURS)}


def children() -> set[int]:
    """Give the ids of this process's children that have not ended; empty without /proc.

    It is called twice for each of thousands of tests: a glob took a tenth of their time.
    """
    found: set[int] = set()
    with contextlib.suppress(OSError):  # no /proc
        for thread in os.listdir("/proc/self/task"):  # noqa: PTH208  # see above
            with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/children") as pids:  # noqa: PTH123
                found.update(map(int, pids.read().split()))  # suppressed: it has just ended
    return {pid for pid in found if not _ended(pid)}


def _ended(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def _command(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return f"{pid}: {words}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the name of a file for what `tests.live.recorder` writes."""
    told = "write what live tests saw of each row of the outcome table to FILE, as lines of JSON"
    parser.addoption("--outcomes", metavar="FILE", type=Path, help=told)
    refused = "refuse to run unless taskobs is imported from an installed distribution"
    parser.addoption("--installed", action="store_true", help=refused)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a taskobs that is not installed, and let Ctrl-C reach the programs of tests."""
    if config.getoption("--installed"):
        installed_or_refused()
    let_interrupts_through()


def installed_or_refused() -> None:
    """Look where taskobs would be imported from.

    Raises:
        pytest.UsageError: it is a source tree.
    """
    spec, home = find_spec("taskobs"), Path(sysconfig.get_path("purelib"))
    origin = Path(spec.origin) if spec and spec.origin else None
    if origin is None or home not in origin.parents:
        raise pytest.UsageError(f"taskobs would be imported from {origin}, not from {home}")


def let_interrupts_through() -> None:
    """Have Ctrl-C end the programs of tests, too, when a shell started us in the background.

    Such a shell has SIGINT ignored, nohup SIGHUP, and that is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def one_test() -> Generator[None]:
    """Keep a test from what is around it, and what is around it from the test.

    One fixture for all of that: of several, pytest's own part takes longer than theirs does, for
    each of thousands of tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        hide_settings(patch)
        hide_apps_of_other_tests(patch)
        with no_context_values(), nothing_left():
            yield


def hide_settings(patch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "SENTRY_", "TASKOBS_")):
            patch.delenv(name)


def hide_apps_of_other_tests(patch: pytest.MonkeyPatch) -> None:
    """Hide the apps that earlier tests have made, and that are not collected yet."""
    from taskobs.celery import _compat

    before = _compat.app_names()
    seen = _compat.app_names
    patch.setattr(_compat, "app_names", lambda: seen() - before)


@contextlib.contextmanager
def no_context_values() -> Generator[None]:
    """Take away the context values that a test leaves, and the keys that it accepts."""
    try:
        yield
    finally:
        from taskobs.observers.context import accept, state

        accept(frozenset())
        values = sys.modules.get("taskobs.observers.context.values")
        if values is not None:
            values.put(None, {})
        state.in_use = False


@contextlib.contextmanager
def nothing_left() -> Generator[None]:
    """Fail a test that leaves a span current, or a receiver, thread or process of ours.

    What was there before the test (fixtures of a module or of the session) does not count.
    """
    span, receivers = trace.get_current_span(), our_receivers()
    threads, processes = our_threads(), children()
    yield
    assert trace.get_current_span() is span, "a span is still current"
    assert our_receivers() <= receivers, "receivers are still connected"
    for thread in our_threads() - threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{thread} still runs"
    if children() - processes - LASTING:
        wait_until(lambda: not children() - processes - LASTING, timeout=PATIENCE)
        left = [_command(pid) for pid in children() - processes - LASTING]
        assert not left, f"processes still run: {left}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what this machine could not test, how many tests that is, and what to install."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)
    if not reasons:
        return
    terminalreporter.section("not tested on this machine")
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"{number:4} skipped: {reason}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a name that no two processes give to a test: they could not share the tests."""
    names = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if names:
        raise pytest.UsageError("the address of an object is in the name of " + ", ".join(names))


WITH_BUGSINK = frozenset(
    f"tests/live/test_{name}.py" for name in ("backends", "doctor", "examples", "how_to", "smoke")
)
"""Modules whose tests run in one process: Bugsink takes longer to start than most of them."""
LONGEST = (
    "Bugsink",
    *(
        f"tests/live/test_{name}.py"
        for name in ("metrics", "memory", "own_meters", "isolation", "chaos", "context", "monitor")
    ),
    "tests/docs/test_site.py",
    "tests/live/",
    "tests/process/",
    "tests/docs/",
)
"""Where modules begin first: one that takes minutes and begins last would run alone in the end."""


class SharedWorkers(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Runs the tests of a module in one process: they share its fixtures. The longest begin first.

    Live tests over several brokers and pools, ``[redis-prefork]`` for one, may run in several.
    (Marks named ``xdist_group`` do the same, and have no effect on pytest 9 with xdist 3.8.)
    """

    def _split_scope(self, nodeid: str) -> str:
        variant = re.search(r"\[((?:redis|rabbitmq)-\w+)", nodeid)
        module = str(super()._split_scope(nodeid))
        if module in WITH_BUGSINK:
            return "Bugsink"
        return f"{module}[{variant[1]}]" if variant else module

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Take what begins first of what is left; among equals, as xdist does, the most tests."""
        first = min(self.workqueue, key=_rank)
        self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)


def _rank(scope: str) -> int:
    ranks = (rank for rank, name in enumerate(LONGEST) if scope.startswith(name))
    return next(ranks, len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedWorkers:
    """Tell xdist how to spread the tests over processes."""
    return SharedWorkers(config, log)
