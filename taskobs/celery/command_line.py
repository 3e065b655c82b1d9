"""Celery's command line, as far as a process is one of its commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

_CELERY: Final = "celery.bin.celery"
_COMMANDS: Final = "celery.bin."
_WORKER: Final = "worker"


def in_command() -> bool:
    """Tell whether one of Celery's own commands is running: it is what imports the app.

    Commands of other packages, such as Flower's, may serve web requests: they don't count.
    """
    return bool(command())


def in_worker_command() -> bool:
    """Tell whether that command is ``celery worker``."""
    return command() == _WORKER


def command() -> str:
    """Return the name of Celery's own command that is running; empty if there is none."""
    click: Any = sys.modules.get("click")
    celery: Any = sys.modules.get(_CELERY)
    context = click.get_current_context(silent=True) if click and celery else None
    if context is None:
        return ""
    root = context.find_root()
    name = str(root.invoked_subcommand or "")
    module = getattr(getattr(celery.celery.commands.get(name), "callback", None), "__module__", "")
    is_celerys = root.command is celery.celery and str(module).startswith(_COMMANDS)
    return name if is_celerys else ""


def at_command_end(action: Callable[[], object]) -> None:
    """Have ``action`` called when the command has ended, before the interpreter does.

    What ``atexit`` calls may start no threads (seen with Python 3.12.1): no time limit holds there.
    """
    click: Any = sys.modules["click"]
    click.get_current_context().find_root().call_on_close(action)
