"""The directory that spools are kept in, which nobody but this user may write to.

Whoever can write there could plant files under the names of ours, or replace them. A directory
that is shared with others (``/tmp``, a Kubernetes ``emptyDir``) gets a private one inside.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_PRIVATE: Final = 0o700


class SpoolDirectoryError(OSError):
    """No spool can be kept there; the message says why."""


def private_directory(path: Path) -> Path:
    """Return where to keep spools: ``path``, made if need be, or ``taskobs-UID`` inside it.

    Call it again when the directory was removed.

    Raises:
        SpoolDirectoryError: another user controls it.
        OSError: it can't be made or read.
    """
    path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    link, found = path.lstat(), path.stat()
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in {0, os.geteuid()}:
        raise SpoolDirectoryError(f"{path} is a link that belongs to user {link.st_uid}")
    if found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE:
        return path
    own = path / f"taskobs-{os.geteuid()}"
    _make_private(own)
    return own


def _make_private(path: Path) -> None:
    with suppress(FileExistsError):
        path.mkdir(mode=_PRIVATE)
    # Opened once and then looked at: the path may lead elsewhere by the next call.
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SpoolDirectoryError(f"{path} is not a directory of ours: {error.strerror}") from error
    try:
        found = os.fstat(directory)
        if found.st_uid != os.geteuid():
            raise SpoolDirectoryError(f"{path} belongs to user {found.st_uid}")
        if found.st_mode & _OTHERS:
            os.fchmod(directory, _PRIVATE)
    finally:
        os.close(directory)
