"""Which process of a Celery app this is, as Celery's signals report it."""

from __future__ import annotations

from enum import Enum


class Role(str, Enum):
    """What this process is. It is a producer until Celery says otherwise."""

    PRODUCER = "producer"
    WORKER = "worker"
    POOL_CHILD = "pool child"
    BEAT = "beat"
