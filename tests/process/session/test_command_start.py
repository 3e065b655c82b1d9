"""What Celery's commands take with taskobs, of what they take without."""

from __future__ import annotations

import pytest

from tools.command_start import COMMANDS, measure

ROUNDS = 7


@pytest.mark.parametrize(("name", "most"), [("purge", 1.2), ("call", 1.5)])
def test_a_command_starts_nearly_as_fast_as_without(name: str, most: float) -> None:
    """`celery purge` imports no SDK; `celery call`, which publishes a message, no exporter."""
    without, observed = measure(COMMANDS[name], ROUNDS)
    # The least of several runs is the time of one that nothing else has disturbed.
    assert min(observed) / min(without) <= most
