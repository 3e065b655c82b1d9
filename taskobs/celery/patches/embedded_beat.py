"""Sets taskobs up in a worker's embedded beat whose process is spawned.

Such a process doesn't import the app's module. The start method depends on the order in
which Celery starts the parts of a worker with
``worker_pool_start_method="spawn"``: beat is forked before the pool is there, spawned after.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from taskobs.internal.import_hooks import when_imported
from taskobs.internal.wrapping import Patches


class EmbeddedBeat:
    """Makes a spawned beat call ``init()`` with the arguments of its worker's call.

    ``init`` is pickled by reference: a function of a module, which is imported in the new process.
    """

    def __init__(self, init: Callable[..., object], arguments: Mapping[str, Any]) -> None:
        self._init = init
        self._arguments = arguments
        self._wrappers = Patches()
        self._forget: Callable[[], None] | None = None

    def install(self) -> None:
        """Wrap the function that makes the embedded beat; called in a worker's main process.

        Only when Celery imports its module, which it does for a worker with a beat.
        """
        if self._forget is None:
            self._forget = when_imported("celery.beat", self._wrap)

    def remove(self) -> None:
        """Unwrap it."""
        if self._forget is not None:
            self._forget()
            self._forget = None
        self._wrappers.remove()

    def _wrap(self) -> None:
        from celery import beat

        self._wrappers.wrap(beat, "EmbeddedService", self._made)

    def _made(
        self, make: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        service = make(*args, **kwargs)
        service.taskobs = _Setup(self._init, self._arguments)
        return service


class _Setup:
    """Calls ``init()`` in the process that unpickles it."""

    def __init__(self, init: Callable[..., object], arguments: Mapping[str, Any]) -> None:
        self._init = init
        self._arguments = dict(arguments)

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Callable[..., object], bytes]]:
        kept = {name: value for name, value in self._arguments.items() if _can_be_pickled(value)}
        return _set_up, (self._init, pickle.dumps(kept))


def _can_be_pickled(value: object) -> bool:
    """Tell whether another process may be given a value: a function of no module can't be."""
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001  # whatever a value of the app's raises
        return False
    return True


def _set_up(init: Callable[..., object], arguments: bytes) -> None:
    init(**pickle.loads(arguments))  # noqa: S301  # sent by our own worker, over its pipe
