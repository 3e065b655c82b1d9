"""``taskobs demo``, as a user runs it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskobs.testing.receiver import Receiver
from tests.live.process import LIMIT, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

BOUND = 240
"""Seconds; it takes about ten where nothing else runs."""
HEX = "[0-9a-f]"


def environment(folder: Path, **more: str) -> dict[str, str]:
    """A user's environment, with temporary files where the test can look for remains."""
    (folder / "tmp").mkdir()
    return dict(os.environ) | {"TMPDIR": str(folder / "tmp")} | more


def demo(folder: Path, variables: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "taskobs", "demo", *arguments],
        env=dict(variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def remains(folder: Path) -> list[str]:
    """Name what is left for good; a relay ends a moment after its worker."""
    wait_until(lambda: not found_now(folder), timeout=LIMIT)
    return found_now(folder)


def found_now(folder: Path) -> list[str]:
    """Name the processes and files that were started and made under the test's folder."""
    found = [str(path) for path in (folder / "tmp").iterdir()]
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # ended meanwhile, or somebody else's
            if f"SHOP_FOLDER={folder}".encode() in entry.read_bytes():
                found.append(entry.parent.joinpath("cmdline").read_text())
    return found


def test_the_demo_shows_one_order_in_traces_errors_and_logs(tmp_path: Path) -> None:
    """I see the trees, the issue, the log line and the page, all with one trace id."""
    output = demo(tmp_path, environment(tmp_path))
    orders = re.findall(rf"Order (\d+): (.*)\n  trace ({HEX}{{32}})", output)
    assert [(order, text) for order, text, _ in orders] == [
        ("1001", "delivered"),
        ("1002", "CardDeclinedError: insufficient funds"),
    ]
    trace_id = orders[1][2]
    issue = re.search(rf"The Sentry issue\n  CardDeclinedError: .*\n +trace_id +{trace_id}", output)
    line = re.search(rf"A log line with the same ids\n.*trace_id={trace_id} span_id=(\w+)", output)
    assert issue, output
    assert line, output
    assert re.search(rf"span_id +{line[1]}", output)
    for shown in (
        r"run shop\.charge_card +[\d.]+ m?s  ✗ failed .* insufficient funds",
        r"run shop\.book_carrier +[\d.]+ m?s  ↻ retried .*no answer from the carrier",
        r"run shop\.book_carrier +[\d.]+ m?s  ✓ succeeded .*attempt 2",
        r"after 3 header runs",
        r"celery\.task +shop\.charge_card",
    ):
        assert re.search(shown, output), output
    assert "\x1b" not in output
    page = (tmp_path / "taskobs-demo.html").read_text(encoding="utf-8")
    assert trace_id in page
    assert not remains(tmp_path)


def test_telemetry_goes_where_the_variables_say(tmp_path: Path) -> None:
    """With my own backends set, they get it, and I am told where to look."""
    with Receiver() as mine:
        variables = environment(
            tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=mine.endpoint, SENTRY_DSN=mine.dsn
        )
        output = demo(tmp_path, variables, "--no-color")
        spans, events = mine.spans, mine.events
    assert len(events) == 1, [event.data for event in events]
    failed = {span.trace_id for span in spans if span.status == "error"}
    assert len(failed) == 1
    trace_id = failed.pop()
    assert "backend at 127.0.0.1" in output
    assert "nothing answers" not in output
    assert f"  {trace_id}  order 1002: CardDeclinedError" in output
    assert f"trace:{trace_id}" in output
    assert trace_id in str(events[0].data["contexts"])
    assert len({(span.trace_id, span.span_id) for span in spans}) == len(spans)
    assert not (tmp_path / "taskobs-demo.html").exists()
    assert not remains(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C in the middle ends the worker and takes the files away."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "taskobs", "demo"],
        env=environment(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        output = running.stdout
        assert output is not None
        assert any("✓ start a prefork worker" in line for line in output)
        running.send_signal(number)
        rest = output.read()
        assert running.wait(BOUND) != 0
    assert "Traceback" not in rest
    assert not remains(tmp_path)
