"""The signals that a relay ignores, because they are meant for its worker.

``pkill -USR1 -f celery`` and service managers that signal all processes of a service reach the
relay too. It ignores all signals that would end or stop it but SIGTERM, which it handles, and the
faults of its own code. A signal that arrives before the relay has set that up would end it, so its
launcher starts it with these signals blocked, and the relay unblocks them.
"""

from __future__ import annotations

import signal
from typing import Final

_UNSTOPPABLE: Final = ("SIGKILL", "SIGSTOP")
_HARMLESS: Final = ("SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH")
"""What does nothing by default. Ignoring SIGCHLD would make ``waitpid`` fail."""
_FAULTS: Final = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS", "SIGEMT")
_KEPT: Final = ("SIGTERM", *_UNSTOPPABLE, *_HARMLESS, *_FAULTS)

IGNORED: Final = frozenset(signal.valid_signals()) - {
    getattr(signal, name) for name in _KEPT if hasattr(signal, name)
}
"""What the relay ignores."""
BLOCKED_AT_START: Final = IGNORED | {signal.SIGTERM}
"""What is blocked until the relay ignores or handles it."""
