"""Keeps the memory that a worker's main process has filled shared with its pool children."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, Final

from celery import signals

from taskobs.celery.connect import connect
from taskobs.celery.process_signals import runs_no_tasks

if TYPE_CHECKING:
    from typing_extensions import Self

_UID: Final = "taskobs.frozen_objects"


class FrozenObjects:
    """Calls ``gc.freeze()`` once in its ``with``, before the first pool child is forked.

    A collection writes to the header of each object that it looks at, and the kernel then copies
    that page for the child. It doesn't look at frozen objects. Where the app has frozen some
    itself, nothing is done: ``gc.unfreeze()`` would release those, too.
    """

    def __init__(self) -> None:
        self._frozen = False

    def __enter__(self) -> Self:
        """Wait until Celery's worker is set up; its pool starts right after that."""
        connect(signals.celeryd_after_setup, self._pool_starts, _UID)
        return self

    def __exit__(self, *_: object) -> None:
        """Have collections look at these objects again."""
        signals.celeryd_after_setup.disconnect(dispatch_uid=_UID)
        if self._frozen:
            self._frozen = False
            gc.unfreeze()

    def _pool_starts(self, *, instance: Any = None, **_: Any) -> None:
        if not runs_no_tasks(instance) or not hasattr(gc, "freeze"):  # PyPy's gc has none
            return
        if not gc.get_freeze_count():
            gc.collect()  # garbage that is frozen stays for good
            gc.freeze()
            self._frozen = True
