"""Whether a process runs, by its id and its start time."""

from __future__ import annotations

import subprocess
import sys

from taskobs.internal import pids


def test_a_process_is_alive_until_it_has_ended() -> None:
    """A zombie is no live process, nor is another one that got its id."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as program:
        started = pids.start_time(program.pid)
        assert pids.alive(program.pid, started)
        if started:  # there is a /proc
            assert not pids.alive(program.pid, started + 1)
        program.kill()
        program.wait()
        assert not pids.alive(program.pid, started)
        assert pids.start_time(program.pid) == 0
    assert not pids.alive(2**40, 0)
