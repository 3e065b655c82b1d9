"""The shop with hooks that put what they get on the span; one is broken for tasks that fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import taskobs

if TYPE_CHECKING:
    from opentelemetry.trace import Span


def on_publish(publish: taskobs.Publish, span: Span) -> None:
    """Say the queue, and leave a header."""
    span.set_attribute("hook.queue", publish.queue or "")
    publish.headers["hook"] = "travels"


def on_run(run: taskobs.Run, span: Span) -> None:
    """Say what the header says."""
    if run.task.endswith("fail"):
        raise KeyError(run.task)
    span.set_attributes({"hook.header": run.headers["hook"], "hook.attempt": run.attempt})


def on_run_end(run: taskobs.Run, span: Span) -> None:
    """Say how it ended."""
    span.set_attribute("hook.outcome", run.outcome.value if run.outcome else "")


session = taskobs.init(on_publish=on_publish, on_run=on_run, on_run_end=on_run_end)

from tests.live.apps.shop import add, app, die, fail  # noqa: E402  # it is set up already

__all__ = ["add", "app", "die", "fail"]
