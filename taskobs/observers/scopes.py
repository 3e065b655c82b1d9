"""Forks of Sentry's scopes that are made when somebody looks: most runs leave Sentry alone."""

# Sentry's scopes keep all that they have in private names.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sentry_sdk.scope import Scope

_FIELDS: Final[frozenset[str]] = frozenset(getattr(Scope, "__slots__", ()))


def fork(scope: Scope, prepare: Callable[[Scope], object] | None = None) -> Scope:
    """Return a fork of ``scope`` for ``prepare`` to change before anybody sees it.

    It is made at once for scopes of another class, such as those of Sentry 3.
    """
    if type(scope) not in (Scope, _Fork) or not _FIELDS:
        made = scope.fork()
        if prepare is not None:
            prepare(made)
        return made
    deferred = object.__new__(_Fork)
    deferred._origin = scope
    deferred._prepare = prepare
    deferred.client = scope.client  # which is looked at wherever something may be sent
    return deferred


class _Fork(Scope):
    """A scope that is as empty as its creation left it, until one of its fields is asked for."""

    __slots__ = ("_origin", "_prepare")

    _origin: Scope
    _prepare: Callable[[Scope], object] | None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # of a field that has nothing in it
        if name not in _FIELDS:
            raise AttributeError(name)
        made, prepare = self._origin.fork(), self._prepare
        for field in _FIELDS:
            if not _has(self, field):  # what was written since then stays
                with suppress(AttributeError):
                    setattr(self, field, getattr(made, field))
        if prepare is not None:
            self._prepare = None
            prepare(self)
        return object.__getattribute__(self, name)


def _has(scope: Scope, field: str) -> bool:
    try:
        object.__getattribute__(scope, field)
    except AttributeError:
        return False
    return True
