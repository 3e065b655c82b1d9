"""Forks of Sentry's scopes that are made when somebody looks."""

from __future__ import annotations

from typing import Any

import pytest
from sentry_sdk.scope import Scope

from taskobs.observers.sentry.scopes import fork

FIELDS: tuple[str, ...] = tuple(getattr(Scope, "__slots__", ()))


def a_scope() -> Scope:
    scope = Scope()
    scope.set_tag("region", "eu")
    scope.set_extra("size", 3)
    scope.set_context("cart", {"items": 2})
    scope.set_user({"id": "u1"})
    scope.add_event_processor(lambda event, _: event)
    return scope


def values(scope: Any) -> dict[str, Any]:
    """Give all that can be compared: a fork's flags are a copy each time."""
    return {name: getattr(scope, name) for name in FIELDS if name != "_flags"}


def test_it_has_all_that_a_fork_of_sentrys_has() -> None:
    """Whoever looks finds what was there when the run began."""
    scope = a_scope()
    assert values(fork(scope)) == values(scope.fork())
    assert values(fork(fork(scope))) == values(scope.fork())
    assert values(fork(scope).fork()) == values(scope.fork())


def test_what_is_set_on_it_stays_its_own() -> None:
    """A tag of a run reaches neither the process nor another run."""
    scope, before = a_scope(), values(a_scope())["_tags"]
    one, other = fork(scope), fork(scope)
    one.set_tag("region", "us")
    one.set_tag("run", "1")
    inner = fork(one)
    inner.set_tag("run", "2")
    assert values(scope)["_tags"] == values(other)["_tags"] == before
    assert values(one)["_tags"] == {"region": "us", "run": "1"}
    assert values(inner)["_tags"] == {"region": "us", "run": "2"}


@pytest.mark.parametrize("level", ["fatal", "info"])
def test_what_is_set_before_anybody_looks_stays(level: Any) -> None:
    """A field that is written first is not overwritten when the others are filled."""
    deferred = fork(a_scope())
    deferred.set_level(level)
    deferred.set_tag("a", "b")
    assert values(deferred)["_level"] == level
    assert values(deferred)["_tags"] == {"region": "eu", "a": "b"}


def test_it_is_prepared_once_and_only_if_somebody_looks() -> None:
    """What is to be different in the fork is so before anybody sees it."""
    seen: list[Scope] = []

    def prepare(scope: Scope) -> None:
        seen.append(scope)
        scope.set_tag("prepared", "yes")

    deferred = fork(a_scope(), prepare)
    assert deferred.client is not None
    assert not seen
    assert values(deferred)["_tags"] == {"region": "eu", "prepared": "yes"}
    deferred.set_tag("more", "x")
    assert len(seen) == 1


def test_a_scope_of_another_class_is_forked_at_once() -> None:
    """Scopes that do more than Sentry's own keep doing it."""

    class Special(Scope):
        __slots__ = ()

    special = Special()
    assert type(fork(special)) is type(special.fork())


def test_there_is_nothing_else_in_it() -> None:
    """It lacks what Sentry's lacks."""
    assert not hasattr(fork(a_scope()), "no_such_field")
