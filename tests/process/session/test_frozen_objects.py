from __future__ import annotations

import gc
from collections.abc import Generator
from types import SimpleNamespace
from weakref import ref

import pytest
from celery import Celery, signals

import taskobs
from taskobs.celery.patches.frozen_objects import FrozenObjects

pytestmark = pytest.mark.skipif(not hasattr(gc, "freeze"), reason="needs gc.freeze()")


class Node:
    other: Node


@pytest.fixture(autouse=True)
def nothing_is_frozen() -> Generator[None]:
    """As in a worker; the tests' own objects may be frozen, to save time."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    if frozen:
        gc.freeze()


class Worker:
    """As much as a session asks of Celery's."""

    pool_cls = "prefork"
    hostname = "w@host"

    def __init__(self, app: Celery) -> None:
        self.app = app


def pool_starts(pool: str) -> None:
    signals.celeryd_after_setup.send("w@host", instance=SimpleNamespace(pool_cls=pool), conf=None)


def test_a_prefork_worker_freezes_what_it_has_loaded() -> None:
    """My worker is about to fork: the collector leaves alone what is there, and garbage is gone."""
    garbage = Node()
    garbage.other = garbage
    weak = ref(garbage)
    del garbage
    with FrozenObjects():
        pool_starts("prefork")
        assert gc.get_freeze_count() > 1_000
        assert weak() is None
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_other_pools_freeze_nothing(pool: str) -> None:
    """My pool forks nothing, so the collector goes on as it was."""
    with FrozenObjects():
        pool_starts(pool)
        assert gc.get_freeze_count() == 0


def test_what_the_app_has_frozen_stays_frozen() -> None:
    """My app calls gc.freeze() itself: it is neither added to nor undone."""
    gc.freeze()
    try:
        new: list[list[int]] = [[] for _ in range(10_000)]
        before = gc.get_freeze_count()
        with FrozenObjects():
            pool_starts("prefork")
            assert gc.get_freeze_count() < before + len(new)
        assert gc.get_freeze_count() > before // 2  # some have been freed since
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("asked", [True, False])
def test_a_session_freezes_if_asked_and_unfreezes_at_its_end(app: Celery, *, asked: bool) -> None:
    """I set `gc_freeze`, and `close()` takes back what it did; without it nothing is frozen."""
    worker = Worker(app)
    with taskobs.init(gc_freeze=asked, relay=False):
        signals.worker_init.send(sender=worker)
        signals.celeryd_after_setup.send("w@host", instance=worker, conf=app.conf)
        assert bool(gc.get_freeze_count()) is asked
    assert gc.get_freeze_count() == 0
