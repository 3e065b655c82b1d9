"""What a hook is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # a type checker alone needs them
    from opentelemetry.trace import Span

    from taskobs.model import Publish, Run


class PublishHook(Protocol):
    """Is called with each publish."""

    def __call__(self, publish: Publish, span: Span, /) -> object:
        """Receive a publish whose message is complete and not yet sent, and its span."""
        ...


class RunHook(Protocol):
    """Is called with each run."""

    def __call__(self, run: Run, span: Span, /) -> object:
        """Receive a run, and its span."""
        ...
