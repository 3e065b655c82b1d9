"""What a worker and the relay that it starts share beside the settings."""

from __future__ import annotations

from typing import Final

SEARCH_PATH: Final = "TASKOBS_RELAY_PATH"
"""The variable with the worker's ``sys.path``. Only a relay has it, so that a program that finds it
when it starts a worker was itself started in the place of a relay."""
READY: Final = b"\1"
"""What a relay writes to its control socket when it is about to serve."""
ERRORS_FD: Final = 1
"""The worker's standard error, to which a relay turns its own when it has answered."""
