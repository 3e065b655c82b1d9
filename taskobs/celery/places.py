"""The places of our receivers among those of Celery's signals, before they are connected.

The modules of the receivers take long to import, so in most processes that happens late.
"""

from __future__ import annotations

from typing import Final

from celery import signals
from celery.utils.dispatch import Signal

from taskobs.celery.connect import release, reserve

UID: Final = "taskobs."
"""What the ids of receivers for publishes and runs begin with; their names follow."""
PLACES: Final[tuple[tuple[Signal, str], ...]] = (
    (signals.beat_init, "_beat_starts"),
    (signals.before_task_publish, "_publish_routed"),
    (signals.worker_init, "_worker_starts"),
    (signals.celeryd_after_setup, "_worker_starts"),
    (signals.task_prerun, "_run_started"),
    (signals.task_failure, "_run_failed"),
    (signals.task_retry, "_run_retried"),
    (signals.task_postrun, "_run_ended"),
    (signals.task_internal_error, "_run_broken"),
)


def reserve_places() -> None:
    """Have the receivers called before those that the app connects from now on."""
    for signal, name in PLACES:
        reserve(signal, UID + name)


def release_places() -> None:
    """Give up the places that no receiver has taken."""
    for signal, name in PLACES:
        release(signal, UID + name)
