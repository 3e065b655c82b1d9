"""A worker's embedded beat whose process is spawned: it doesn't import the app's module.

Which start method it gets depends on the order in which Celery starts the parts of a worker with
``worker_pool_start_method="spawn"``: beat is forked before the pool is there, spawned after.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from taskobs.internal.import_hooks import when_imported
from taskobs.internal.wrapping import Patches


class EmbeddedBeat:
    """Has a spawned beat call ``init()`` with the arguments that its worker's had.

    ``init`` is pickled by reference: a function of a module, which is imported in the new process.
    """

    def __init__(self, init: Callable[..., object], arguments: Mapping[str, Any]) -> None:
        self._init = init
        self._arguments = arguments
        self._wrappers = Patches()
        self._forget: Callable[[], None] | None = None

    def install(self) -> None:
        """Wrap what makes the embedded beat; for a worker's main process, before it is made.

        Celery imports it for a worker that has a beat, and so do we.
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
    """Sets taskobs up where it is unpickled."""

    def __init__(self, init: Callable[..., object], arguments: Mapping[str, Any]) -> None:
        self._init = init
        self._arguments = dict(arguments)

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Callable[..., object], bytes]]:
        try:
            told = pickle.dumps(self._arguments)
        except Exception:  # noqa: BLE001  # an odd mapping: the variables alone must do
            told = pickle.dumps({})
        return _set_up, (self._init, told)


def _set_up(init: Callable[..., object], arguments: bytes) -> None:
    init(**pickle.loads(arguments))  # noqa: S301  # from our own worker, over its own pipe
