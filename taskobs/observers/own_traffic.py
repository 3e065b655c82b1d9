"""Contexts in which the libraries that OpenTelemetry instruments make no spans.

A worker talks to its broker all the time: it fetches messages, acknowledges them, sends events,
replies to remote control. Instrumentations of redis, boto, pymongo, SQLAlchemy or requests would
make a trace of each such command. They make none while the current context says so (seen in 0.66b1;
that of redis does not look at the context in early releases). Spans that code starts by itself are
made as ever.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from opentelemetry.context import Context, attach, detach, get_current, get_value, set_value

_OURS: Final = "taskobs-own-traffic"
"""Tells this suppression from one of the app's, which is not ours to lift."""


@contextmanager
def suppressed() -> Generator[None]:
    """Have instrumented libraries make no spans in a block."""
    if get_value(_OURS):
        yield
        return
    # Imported here: only workers and beat need it.
    from opentelemetry.instrumentation.utils import suppress_instrumentation

    with suppress_instrumentation():
        token = attach(set_value(_OURS, "on"))
        try:
            yield
        finally:
            detach(token)


def suppressed_in(context: Context) -> Context:
    """Return a context as it is in a ``suppressed`` block."""
    token = attach(context)
    try:
        with suppressed():
            return get_current()
    finally:
        detach(token)


@contextmanager
def lifted() -> Generator[None]:
    """Have them make spans again, for code of the app's that a ``suppressed`` block calls."""
    if not get_value(_OURS):
        yield
        return
    token = attach(Context())
    try:
        yield
    finally:
        detach(token)


def lift_after_fork() -> None:
    """Lift it for good: a child that is forked in such a block runs in a copy of its context."""
    if get_value(_OURS):
        attach(Context())
