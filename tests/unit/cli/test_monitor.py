"""``taskobs monitor``, as far as it needs no server."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Generator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from taskobs.cli.main import main
from taskobs.metrics.prometheus import exposition
from tests.live.services import free_port

APP = """
from celery import Celery
app = Celery("{name}", broker="{broker}", set_as_current=False)
app.conf.task_default_queue = "{name}"
app.conf.worker_enable_remote_control = False
"""


pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in a folder of apps, which nobody has imported."""
    monkeypatch.chdir(tmp_path)
    name = request.node.name.partition("[")[0]
    away = f"redis://:pw@127.0.0.1:{free_port()}"
    for module, broker in ((name, "memory://"), (f"{name}_away", away)):
        (tmp_path / f"{module}.py").write_text(APP.format(name=module, broker=broker))
    (tmp_path / f"{name}_broken.py").write_text("raise ValueError('not today')")


@pytest.fixture(autouse=True)
def the_log_s_level() -> Generator[None]:
    """Leave the log as it was, which the command sets up for a process of its own."""
    log = logging.getLogger("taskobs")
    level = log.level
    yield
    log.setLevel(level)


def monitor(*args: str) -> Result:
    return CliRunner().invoke(main, ["monitor", *args])


def test_a_table_is_printed_once() -> None:
    """I look at my queues from the folder of my app, as with ``celery -A``."""
    result = monitor("-A", "test_a_table_is_printed_once", "--once", "-Q", "a, b")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    assert rows[0] == ["queue", "ready", "unacked", "oldest", "consumers"]
    assert rows[1] == ["test_a_table_is_printed_once", "0", "?", "-", "?"]
    assert [row[0] for row in rows[2:4]] == ["a", "b"]
    assert "consumers ?: worker_enable_remote_control is off" in result.output


def test_json_is_printed_once() -> None:
    """My script reads the queues as ``/queues`` has them."""
    result = monitor("-A", "test_json_is_printed_once:app", "--json")
    assert result.exit_code == 0, result.output
    [queue] = json.loads(result.output)["queues"]
    assert queue.pop("name") == "test_json_is_printed_once"
    assert queue == {"ready": 0, "unacked": None, "oldest_age": 0.0, "consumers": None}


def test_a_broker_that_is_down_is_one_line() -> None:
    """I look while the broker is down: one line says so, and my password is not in it."""
    result = monitor("-A", "test_a_broker_that_is_down_is_one_line_away", "--once")
    assert result.exit_code == 1
    assert result.output.startswith("Error: redis at 127.0.0.1:")
    assert result.output.count("\n") == 1
    assert "pw" not in result.output


@pytest.mark.parametrize(
    ("app", "problem"),
    [
        ("no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("test_what_is_no_app_is_named_broken", "not today"),
        ("json:loads", "'json:loads' is no Celery app, but function"),
    ],
)
def test_what_is_no_app_is_named(app: str, problem: str) -> None:
    """I mistype the app, or it fails at its import: I read what was tried, and why not."""
    result = monitor("-A", app, "--once")
    assert result.exit_code == 1
    assert problem in result.output
    assert result.output.count("\n") == 1


def test_nothing_to_export_is_said() -> None:
    """I give neither a port nor an endpoint, and read what to give."""
    result = monitor("-A", "test_nothing_to_export_is_said")
    assert result.exit_code == 1
    for way in ("--port", "TASKOBS_METRICS_PORT", "OTEL_EXPORTER_OTLP_ENDPOINT", "--once"):
        assert way in result.output


def test_a_taken_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port in my variable is somebody's, and one line says which."""
    pytest.importorskip("prometheus_client")  # the extra `prometheus`
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("TASKOBS_METRICS_PORT", str(port))
        result = monitor("-A", "test_a_taken_port_is_said")
    assert result.exit_code == 1
    assert f"metrics can't be served at 127.0.0.1:{port}: Address already" in result.output


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """I have not installed what serves metrics, and read how to."""
    monkeypatch.setattr(exposition, "find_spec", dict[str, object]().get)
    result = monitor("-A", "test_a_missing_extra_is_said", "--port", "0")
    assert result.exit_code == 1
    assert 'pip install "taskobs[prometheus]"' in result.output


def test_ctrl_c_is_an_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """I press Ctrl-C, and the monitor ends as it should, with its port free again."""
    pytest.importorskip("prometheus_client")  # the extra `prometheus`
    caplog.set_level("INFO", logger="taskobs")

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("taskobs.monitor.run.time.sleep", interrupt)
    result = monitor("-A", "test_ctrl_c_is_an_end", "--port", "0")
    assert result.exit_code == 0, result.output
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("taskobs monitor: memory every 15 s: http://127.0.0.1:")
    assert "test_ctrl_c_is_an_end: 0 ready" in said[1]
    assert said[-1] == "taskobs monitor: ended"
