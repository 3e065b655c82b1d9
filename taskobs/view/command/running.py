"""Becomes the user's command: its exit status, its signals and its terminal are its own."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
"""The statuses of shells for commands that can't be started."""
_MODULE: Final = 2
"""Where the module stands in ``python -m module``."""


class CommandError(Exception):
    """A command can't be started."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def find(command: str) -> str:
    """Return the path of a command: on the PATH, or beside this interpreter, as ``celery`` is.

    Raises:
        CommandError: there is none.
    """
    beside = str(Path(sys.executable).parent)
    found = shutil.which(command) or shutil.which(command, path=beside)
    if found is not None:
        return found
    if Path(command).exists() and os.sep in command:
        raise CommandError(f"{command} can't be executed", NOT_EXECUTABLE)
    raise CommandError(f"there is no command {command!r} on the PATH", NOT_FOUND)


def shown_name(command: Sequence[str]) -> str:
    """Return what the page calls a command: its program, or the module that Python runs.

    Nothing of the arguments: there may be a URL with a password among them.
    """
    name = Path(command[0]).name
    if name.startswith("python") and [*command[1:2]] == ["-m"] and len(command) > _MODULE:
        return command[_MODULE]
    return name


def become(path: str, command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by a command.

    Raises:
        CommandError: the system refuses it.
    """
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and that would be inherited
        signal.signal(signal.Signals[name], signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(path, [*command], environment)  # noqa: S606  # the user's own command
    except OSError as error:
        raise CommandError(f"{path} can't be executed: {error.strerror}", NOT_EXECUTABLE) from None
