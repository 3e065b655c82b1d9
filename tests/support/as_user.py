"""Runs a part of a test as another user, where the tests run as root."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import pytest

NOBODY = 65_534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of two users")


def run_as(user: int, function: Callable[[], object]) -> None:
    """Call it in a forked child that is ``user``; fail with its traceback if it raises."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            function()
            status = 0
        except BaseException:  # noqa: BLE001  # told by the parent
            os.write(writer, traceback.format_exc()[-60_000:].encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as told:
        problem = told.read()
    os.waitpid(pid, 0)
    assert not problem, problem
