"""The directory with the sockets at which relays listen; it belongs to this user alone.

Who may enter the directory may connect: on systems without SO_PEERCRED its mode is all that keeps
other users out.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

SUPPORTED: Final = hasattr(socket, "AF_UNIX") and hasattr(os, "posix_spawn")
_LONGEST: Final = 100
"""Bytes of an address: Linux takes 107, macOS 103."""
_NAME: Final = re.compile(r"worker-(\d+)-[0-9a-f]+\.sock")


class SocketDirectoryError(OSError):
    """No directory can be used for a socket; the message says what is wrong with each."""


def candidates(environ: Mapping[str, str]) -> list[Path]:
    """Return the directories to try, the best one first; they need not exist."""
    own = f"taskobs-{os.getuid()}"
    runtime = environ.get("XDG_RUNTIME_DIR")
    found = [Path(runtime, "taskobs")] if runtime else []
    return list(dict.fromkeys([*found, Path(tempfile.gettempdir(), own), Path("/tmp", own)]))  # noqa: S108  # it is made private


def directory(environ: Mapping[str, str]) -> Path:
    """Return a private directory for sockets, made if it is not there.

    Raises:
        SocketDirectoryError: none of the candidates can be made private.
    """
    problems: list[str] = []
    for path in candidates(environ):
        problem = _made_private(path)
        if problem is None:
            return path
        problems.append(f"{path}: {problem}")
    raise SocketDirectoryError("; ".join(problems))


def _made_private(path: Path) -> str | None:
    """Return what is wrong with a directory; None once it exists and is private."""
    try:
        _own(path)
    except OSError as error:
        return str(error.strerror or error)
    return None


def _own(path: Path) -> None:
    """Make a directory private.

    Raises:
        OSError: it can't be made, is somebody else's, a link, or its name too long for sockets.
    """
    if len(os.fsencode(path / _name(os.getpid()))) > _LONGEST:
        raise OSError("its name is too long for a socket's address")
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError("not a directory")
    if found.st_uid != os.getuid():
        raise OSError("belongs to another user")
    if stat.S_IMODE(found.st_mode) != 0o700:  # noqa: PLR2004  # a mode is read as octal
        path.chmod(0o700)


def _name(pid: int) -> str:
    return f"worker-{pid}-{secrets.token_hex(4)}.sock"


def worker_of(address: str) -> int | None:
    """Return the process id of the worker that listens at an address; None for another file."""
    found = _NAME.fullmatch(Path(address).name)
    return int(found[1]) if found else None


def listen(environ: Mapping[str, str]) -> tuple[socket.socket, str]:
    """Listen at an address that has this process's id; also remove stale sockets.

    Raises:
        SocketDirectoryError: no directory can hold a socket.
    """
    folder = directory(environ)
    remove_stale(folder)
    path = folder / _name(os.getpid())
    return listen_at(path), str(path)


def listen_at(path: Path) -> socket.socket:
    """Listen at a path of a directory that is made private, and made if it is not there.

    Raises:
        OSError: that can't be done, or the path is taken.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Between ``bind`` and ``listen`` a socket refuses connections, as a stale one does. So it gets
    # the name under which others look for it when it listens.
    unnamed = path.with_name(f".{secrets.token_hex(8)}")
    try:
        _own(path.parent)
        listening.bind(str(unnamed))
        listening.listen(socket.SOMAXCONN)
        if os.path.lexists(path):
            raise FileExistsError(errno.EADDRINUSE, "Address already in use")
        unnamed.rename(path)
    except OSError as error:
        with suppress(OSError):
            unnamed.unlink()
        listening.close()
        raise SocketDirectoryError(f"{path}: {error.strerror or error}") from error
    listening.setblocking(False)  # noqa: FBT003  # the standard library's
    return listening


def addresses(environ: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Give the worker's process id and the address of each socket of this user."""
    for folder in candidates(environ):
        with suppress(OSError):
            for path in sorted(folder.iterdir()):
                found = _NAME.fullmatch(path.name)
                if found and _is_ours(path):
                    yield int(found[1]), str(path)


def remove_stale(folder: Path) -> None:
    """Remove the sockets in a directory at which nobody listens any more."""
    with suppress(OSError):
        for path in list(folder.iterdir()):
            with suppress(OSError):
                if _NAME.fullmatch(path.name) and _is_stale(path):
                    path.unlink()


def _is_ours(path: Path) -> bool:
    with suppress(OSError):
        found = path.lstat()
        return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.getuid()
    return False


def _is_stale(path: Path) -> bool:
    if not _is_ours(path):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)  # noqa: FBT003  # the standard library's
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:  # its backlog is full, so somebody listens
            return False
    return False
