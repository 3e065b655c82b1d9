from __future__ import annotations

import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from taskobs.relay_client import socket_directory

if not socket_directory.SUPPORTED:
    pytest.skip("no Unix sockets here", allow_module_level=True)


@pytest.fixture
def folder() -> Generator[Path]:
    """Give a directory with a name as short as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as made:
        yield Path(made)


@pytest.fixture
def environ(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let the directories that may serve be below the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "t"))
    (folder / "r").mkdir()
    (folder / "t").mkdir()
    return {"XDG_RUNTIME_DIR": str(folder / "r")}


def only(*found: Path) -> Callable[[object], list[Path]]:
    return lambda _: list(found)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_worker_listens_in_a_private_directory(environ: dict[str, str], folder: Path) -> None:
    """Nobody else on the machine can reach my worker's socket."""
    listening, address = socket_directory.listen(environ)
    with listening:
        path = Path(address)
        assert path.parent == folder / "r/taskobs"
        assert path.name.startswith(f"worker-{os.getpid()}-")
        assert mode(path.parent) == 0o700
        assert not os.get_inheritable(listening.fileno())
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(address)
        assert next(iter(socket_directory.addresses(environ))) == (os.getpid(), address)


def test_without_a_runtime_directory_the_temporary_one_serves(
    environ: dict[str, str], folder: Path
) -> None:
    assert socket_directory.directory({}) == folder / f"t/taskobs-{os.getuid()}"
    assert (
        socket_directory.directory({**environ, "XDG_RUNTIME_DIR": "/nowhere/at/all"}).parent.name
        == "t"
    )


def test_a_directory_that_others_may_write_to_is_made_private(
    environ: dict[str, str], folder: Path
) -> None:
    (folder / "r/taskobs").mkdir()
    (folder / "r/taskobs").chmod(0o777)
    assert mode(socket_directory.directory(environ)) == 0o700


def test_what_is_not_ours_does_not_serve(
    environ: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has laid a link, a file, or a directory of his own where mine would be."""
    (folder / "elsewhere").mkdir()
    (folder / "r/taskobs").symlink_to(folder / "elsewhere")
    (folder / f"t/taskobs-{os.getuid()}").write_text("")
    last = folder / "far"
    last.mkdir()
    found = [*socket_directory.candidates(environ)[:2], last]
    monkeypatch.setattr(socket_directory, "candidates", only(*found))
    assert socket_directory.directory(environ) == last
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(
        socket_directory.SocketDirectoryError, match="belongs to another user"
    ) as refused:
        socket_directory.directory(environ)
    assert str(refused.value).count("not a directory") == 2


def test_a_name_too_long_for_a_socket_does_not_serve(environ: dict[str, str], folder: Path) -> None:
    long = folder / ("x" * 100)
    long.mkdir()
    assert socket_directory.directory({**environ, "XDG_RUNTIME_DIR": str(long)}).parent.name == "t"


def test_sockets_that_nobody_answers_at_are_removed(environ: dict[str, str]) -> None:
    """My worker was killed, and its socket doesn't stay for ever; those of others do."""
    home = socket_directory.directory(environ)
    paths = {name: home / f"worker-{n}-aa.sock" for n, name in enumerate(("dead", "live"))}
    bound = {name: socket.socket(socket.AF_UNIX) for name in paths}
    for name, path in paths.items():
        bound[name].bind(str(path))
    foreign = home / "something.sock"
    foreign.write_text("")
    bound["live"].listen()
    bound["dead"].close()
    listening, address = socket_directory.listen(environ)
    listening.close()
    left = {path.name for path in home.iterdir()} - {Path(address).name}
    assert left == {paths["live"].name, "something.sock"}
    bound["live"].close()


@pytest.mark.parametrize("days", [-3, 0, 3])
def test_a_worker_that_starts_keeps_its_socket(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """Another one looks for stale sockets before mine listens, and the clock is set just then."""
    folder = socket_directory.directory(environ)
    listen, now = socket.socket.listen, time.time() + days * 86_400

    def here() -> list[str]:
        found = [address for _, address in socket_directory.addresses(environ)]
        return [address for address in found if Path(address).parent == folder]

    def meanwhile(sock: socket.socket, *backlog: int) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("time.time", lambda: now)
            socket_directory.remove_stale(folder)
            assert here() == []
        listen(sock, *backlog)

    monkeypatch.setattr(socket.socket, "listen", meanwhile)
    listening, address = socket_directory.listen(environ)
    with listening, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(address)
        assert here() == [address]
    assert [path.name for path in folder.iterdir()] == [Path(address).name]


def test_no_file_of_somebody_else_is_replaced(environ: dict[str, str]) -> None:
    """Where my worker's socket is to be made again there is another file: it stays."""
    path = socket_directory.directory(environ) / "worker-1-aa.sock"
    path.write_text("somebody's")
    with pytest.raises(socket_directory.SocketDirectoryError, match="in use"):
        socket_directory.listen_at(path)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert path.read_text() == "somebody's"
