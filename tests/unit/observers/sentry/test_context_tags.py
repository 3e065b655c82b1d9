"""Context values on Sentry's events: as tags, and as the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import sentry_sdk

import taskobs
from taskobs.celery.active import ACTIVE_RUN, ActiveRun
from taskobs.internal.guard import Guard
from taskobs.model import Run
from taskobs.observers.sentry.context_tags import add_context
from taskobs.observers.sentry.observer import SentryObserver
from taskobs.sentry.pipeline import SentryPipeline
from tests.support.sentry import Kept, Settings, clear_isolation_scope, fail, make_run, user_init


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Give what a client of the app's sends."""
    yield user_init()
    sentry_sdk.get_global_scope().set_client(None)
    clear_isolation_scope()


@pytest.fixture
def observer(kept: Kept) -> Iterator[SentryObserver]:
    """Observe with that client."""
    pipeline = SentryPipeline.start(Settings())
    yield SentryObserver(pipeline)
    pipeline.close(1.0)
    assert kept


def begin_and_fail(observer: SentryObserver, run: Run) -> None:
    task: Any = None
    ACTIVE_RUN.set(ActiveRun(Guard(), run, task, None))
    try:
        fail(observer, run)
    finally:
        ACTIVE_RUN.set(None)


def test_an_event_outside_of_runs_has_the_values(kept: Kept, observer: SentryObserver) -> None:
    """A request fails, and I see for which tenant and user."""
    with taskobs.context(tenant="acme", user_id=7, vip=True):
        sentry_sdk.capture_message("hello")
    sentry_sdk.capture_message("again")
    first, again = kept.events
    assert first["tags"] == {"tenant": "acme", "user_id": "7", "vip": "true"}
    assert first["user"] == {"id": "7"}
    assert not again.get("tags")
    assert not again.get("user")
    assert observer


def test_a_failure_has_the_values_of_its_message(kept: Kept, observer: SentryObserver) -> None:
    """A worker reports a run, and the event has what the message carried."""
    taskobs.set_context(tenant="nobody's")
    run = make_run(context={"tenant": "acme"})
    begin_and_fail(observer, run)
    [event] = kept.events
    assert event["tags"]["tenant"] == "acme"
    assert event["tags"]["celery.task_id"] == "id-1"


def test_what_the_app_has_set_itself_stays(kept: Kept, observer: SentryObserver) -> None:
    """My own tag and my own user are what I say."""
    with sentry_sdk.new_scope() as scope, taskobs.context(tenant="acme", user_id=7, order=1):
        scope.set_tag("tenant", "mine")
        scope.set_user({"id": "me", "email": "me@example.com"})
        sentry_sdk.capture_message("hello")
    [event] = kept.events
    assert event["tags"] == {"tenant": "mine", "user_id": "7", "order": "1"}
    assert event["user"]["id"] == "me"
    assert observer


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (None, {"tenant": "acme"}),
        ({"tenant": "mine"}, {"tenant": "mine"}),
        ([["other", "x"]], [["other", "x"], ["tenant", "acme"]]),
        ([["tenant", "mine"], None, 7], [["tenant", "mine"], None, 7]),
        ("no tags", {"tenant": "acme"}),
    ],
    ids=repr,
)
def test_tags_have_any_form(tags: object, found: object) -> None:
    """A processor of mine has made a list of the tags, or anything else."""
    event = {"tags": tags}
    add_context(event, {"tenant": "acme"})
    assert event["tags"] == found


def test_an_exception_has_the_values_of_the_block_that_it_left(
    kept: Kept, observer: SentryObserver
) -> None:
    """My view fails in a block, and is reported after it: the event says for whom it was."""
    error = ValueError("no funds")
    with suppress(ValueError), taskobs.context(tenant="acme", user_id=7):
        raise error
    sentry_sdk.capture_exception(error)
    sentry_sdk.capture_exception(KeyError("another"))
    first, other = kept.events
    assert first["tags"] == {"tenant": "acme", "user_id": "7"}
    assert first["user"] == {"id": "7"}
    assert not other.get("tags")
    assert observer
