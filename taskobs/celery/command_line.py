"""Celery's command line, as far as a process is one of its commands."""

from __future__ import annotations

import sys
from typing import Any, Final

_CELERY: Final = "celery.bin.celery"
_COMMANDS: Final = "celery.bin."


def in_command() -> bool:
    """Tell whether one of Celery's own commands is running: it is what imports the app.

    Commands of other packages, such as Flower's, may serve web requests: they don't count.
    """
    click: Any = sys.modules.get("click")
    celery: Any = sys.modules.get(_CELERY)
    context = click.get_current_context(silent=True) if click and celery else None
    if context is None:
        return False
    root = context.find_root()
    command = celery.celery.commands.get(root.invoked_subcommand)
    module = getattr(getattr(command, "callback", None), "__module__", None) or ""
    return root.command is celery.celery and module.startswith(_COMMANDS)
