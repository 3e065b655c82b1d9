"""What Celery's commands take with taskobs, of what they take without."""

from __future__ import annotations

import pytest

from tools.command_start import COMMANDS, measure

ROUNDS = 7
TRIES = 5


@pytest.mark.parametrize(("name", "most"), [("purge", 1.2), ("call", 1.5)])
def test_a_command_starts_nearly_as_fast_as_without(name: str, most: float) -> None:
    """`celery purge` imports no SDK; `celery call`, which publishes a message, no exporter."""
    without: list[float] = []
    observed: list[float] = []
    for _ in range(TRIES):
        more = measure(COMMANDS[name], ROUNDS)
        without += more[0]
        observed += more[1]
        # The least is the time of a run that nothing else has disturbed; on a busy machine it
        # takes many until there is one.
        if min(observed) / min(without) <= most:
            return
    pytest.fail(f"{min(observed):.3f} s with taskobs, {min(without):.3f} s without")
