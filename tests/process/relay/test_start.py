"""A worker starts its relay, whatever the worker itself was started with."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from taskobs.protocol import span_encoder
from taskobs.relay_client import status
from taskobs.relay_client.client import RelayClient
from taskobs.relay_client.launcher import Launcher
from taskobs.testing.receiver import Receiver
from tests.support.export import spans
from tests.support.paths import ROOT
from tests.support.relay_peer import PATIENCE

pytestmark = pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="needs Unix sockets, and /proc to look at processes"
)

# A worker as PEX, Bazel and the like start it: a bare interpreter, and a path made in code.
WORKER = """
import sys
sys.path += sys.argv[1:]
import os, time
from taskobs.relay_client.launcher import Launcher
warnings = []
launcher = Launcher({"parent": os.getpid()}, warn=warnings.append)
launcher.start()
while not launcher.started and launcher.alive:
    launcher.poll()
    time.sleep(0.01)
print("started" if launcher.started else warnings[0])
launcher.close()
if launcher.pid:
    os.kill(launcher.pid, 9)
    launcher.wait(60)
"""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as made:
        monkeypatch.setenv("XDG_RUNTIME_DIR", made)  # short, as a socket's name must be
        yield Path(made)


@contextmanager
def started(receiver: Receiver) -> Generator[Launcher]:
    """Give a launcher whose relay has answered; both end with the block."""
    warnings: list[str] = []
    configuration: dict[str, object] = {
        "parent": os.getpid(),
        "exporter": {"endpoint": f"{receiver.endpoint}/v1/traces"},
    }
    launcher = Launcher(configuration, warn=warnings.append)
    try:
        assert launcher.start()
        poll_until(launcher, lambda: launcher.started or not launcher.alive)
        assert launcher.started, warnings
        yield launcher
    finally:
        if launcher.pid is not None:
            os.kill(launcher.pid, 9)
        assert launcher.wait(PATIENCE)
        launcher.close()
        if launcher.memory is not None:
            launcher.memory.close()


def poll_until(launcher: Launcher, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        launcher.poll()
        time.sleep(0.01)


def test_it_runs_no_startup_module_of_the_worker(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """My worker runs under `opentelemetry-instrument`: its relay is not instrumented."""
    ran = tmp_path / "ran"
    (tmp_path / "sitecustomize.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with started(receiver):
        assert not ran.exists()


def test_it_finds_what_its_worker_finds(tmp_path: Path) -> None:
    """I deploy with PEX: my interpreter has no packages, and its path is made in code."""
    packages = [entry for entry in sys.path if "site-packages" in entry]
    bare = tmp_path / "bare" / "bin" / "python3"
    bare.parent.mkdir(parents=True)
    bare.symlink_to(os.path.realpath(sys.executable))
    # An environment without packages, and without those of the system.
    (tmp_path / "bare" / "pyvenv.cfg").write_text(
        f"home = {Path(os.path.realpath(sys.executable)).parent}\n"
    )
    command = [str(bare), "-c", WORKER, str(ROOT), *packages]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    bare_has = subprocess.run([str(bare), "-c", "import msgpack"], check=False, env=environment)
    assert bare_has.returncode, "the interpreter has packages: this shows nothing"
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.stdout == "started\n", done.stderr


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A library that the relay needs can't be imported: the one warning says which."""
    (tmp_path / "selectors.py").write_text("import no_such_library\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    warnings: list[str] = []
    launcher = Launcher({"parent": os.getpid()}, warn=warnings.append)
    with closing(launcher):
        assert launcher.start()
        poll_until(launcher, lambda: not launcher.alive)
    [warning] = warnings
    assert "No module named 'no_such_library'" in warning


HELLO: dict[str, object] = {"role": "worker", "name": "", "resource": {}, "schema_url": ""}


def keyed(span: ReadableSpan) -> tuple[bytes, bytes]:
    payload = span_encoder.pack_end(span)
    return payload[: span_encoder.KEY_BYTES], payload


def test_a_process_goes_on_though_the_socket_is_removed(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """`/run/user/UID` is removed at my logout: nothing is sent twice, and nothing is lost."""
    first, second, third = spans("first", "second", "third")
    with started(receiver) as launcher:
        before, after = (
            RelayClient(launcher.address, lambda: HELLO, memory=launcher.memory) for _ in range(2)
        )
        with closing(before), closing(after):
            before.ended(*keyed(first))
            assert before.flush(PATIENCE)
            Path(launcher.address).unlink()
            after.ended(*keyed(second))
            assert not after.flush(0.3)
            assert not after.unavailable
            launcher.poll()
            after.ended(*keyed(third))
            assert after.flush(PATIENCE)
            assert before.flush(PATIENCE)
            assert status.ask(launcher.address)["exported"] == {"span": 3}
        assert sorted(span.name for span in receiver.spans) == ["first", "second", "third"]
    assert caplog.text.count("somebody removed the relay's socket") == 1
