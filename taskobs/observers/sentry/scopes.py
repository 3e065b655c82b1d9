"""Forks of Sentry's scopes that are made at the first access: most runs never use Sentry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sentry_sdk.scope import Scope

_OWN: Final = ("origin", "prepare", "made")


def fork(scope: Scope, prepare: Callable[[Scope], object] | None = None) -> Scope:
    """Return a fork of ``scope`` for ``prepare`` to change before anybody sees it.

    It is made at once for scopes of another class, such as those of Sentry 3.
    """
    kind = type(scope)
    if kind is not Scope and kind is not DeferredFork:
        made = scope.fork()
        if prepare is not None:
            prepare(made)
        return made
    deferred = object.__new__(DeferredFork)
    deferred.origin, deferred.prepare, deferred.made = scope, prepare, None
    deferred.client = scope.client  # which is looked at wherever something may be sent
    return deferred


class DeferredFork(Scope):
    """A scope without any of its attributes, until one is asked for; then it has a fork's.

    Python calls ``__getattr__`` only for what an object lacks. What is written to this scope is
    kept here; all else is the fork's, which nobody else sees.
    """

    __slots__ = _OWN

    origin: Scope
    prepare: Callable[[Scope], object] | None
    made: Scope | None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # of an attribute that is not here
        if name in _OWN:  # of a copy, which has all other attributes
            raise AttributeError(name)
        return getattr(self.made or _make(self), name)


def _make(deferred: DeferredFork) -> Scope:
    """Make a fork, and before it those that it is a fork of: in a loop, as they may be many."""
    chain: list[DeferredFork] = []
    scope: Scope = deferred
    while isinstance(scope, DeferredFork) and getattr(scope, "made", scope) is None:
        chain.append(scope)
        scope = scope.origin
    for one in reversed(chain):
        scope = one.origin.fork()
        one.made = one.origin = scope
        if one.prepare is not None:
            one.prepare(one)
            one.prepare = None
    return scope
