"""Where the runs of a chord's header save their span's address for the chord's callback.

Whoever publishes the callback knows the group, but not the spans of its runs, so their addresses
are saved beside the group's own counters in the result backend, under keys that the backend makes,
which expire as those do. Only key-value backends (Redis, Memcached, file system, ...) can do that.
"""

# What Celery hands out has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, Final

from celery.backends.base import BaseKeyValueStoreBackend

from taskobs.celery import _compat
from taskobs.celery._types import Context, Task
from taskobs.model import ChordLinkStore
from taskobs.observers.own_traffic import suppressed

_CHUNK: Final = 32
_MOST: Final = 128  # the SDK's default limit of links on a span
_DEEPEST: Final = 50
UNLOCK: Final = "celery.chord_unlock"


class BackendChordLinks:
    """The span addresses of a chord's header, in a key-value result backend."""

    def __init__(self, backend: Any, group_id: str, index: int | None, body: Any) -> None:
        self._backend = backend
        self._group_id = group_id
        self._index = index
        self._body = body

    def belongs_to(self, task_id: str) -> bool:
        """Tell whether ``task_id`` is the chord's callback, or begins it."""
        return task_id in _first_ids(self._body)

    def save(self, address: str) -> None:
        """Save the address of this run's span; a later attempt's replaces it."""
        if self._index is not None and self._index < _MOST:
            with suppressed():  # it is no command of the run's
                _compat.store_once(self._backend, self._key(self._index), address)

    def load(self) -> Sequence[str]:
        """Return the addresses of the header's runs, at most 128."""
        with suppressed():
            return list(takewhile(bool, self._read()))

    def _read(self) -> Iterator[str]:
        for start in range(0, _MOST, _CHUNK):
            keys = [self._key(index) for index in range(start, start + _CHUNK)]
            found = self._backend.mget(keys)
            values = [found.get(key) for key in keys] if isinstance(found, Mapping) else found
            for value in values:
                yield value.decode("ascii", "replace") if isinstance(value, bytes) else value or ""

    def _key(self, index: int) -> Any:
        return self._backend.get_key_for_group(self._group_id, f".taskobs.{index}")


def chord_links_of(task: Task, name: str, request: Context) -> ChordLinkStore | None:
    """Return the store of the chord that a run belongs to, as one of its header or as its poll."""
    if name == UNLOCK:
        group_id, body = [*(request.args or ()), None, None][:2]
        index = None
    else:
        group_id, body, index = request.group, request.chord, request.group_index
    if not group_id or not isinstance(body, Mapping):
        return None
    backend = task.backend
    if not isinstance(backend, BaseKeyValueStoreBackend):
        return None
    return BackendChordLinks(backend, group_id, index, body)


def _first_ids(signature: object, depth: int = 0) -> Iterator[str]:
    """Yield the ids of the tasks that are published when a signature is called.

    A signature comes with a message: it may have any shape, and any depth.
    """
    if not isinstance(signature, Mapping) or depth > _DEEPEST:
        return
    task_id = _mapping(signature.get("options")).get("task_id")
    if task_id:
        yield task_id
    tasks = _mapping(signature.get("kwargs")).get("tasks")
    if not isinstance(tasks, (list, tuple)):
        return
    for task in tasks[:1] if signature.get("task") == "celery.chain" else tasks:
        yield from _first_ids(task, depth + 1)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
