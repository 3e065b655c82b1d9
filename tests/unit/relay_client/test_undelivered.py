"""Frames that wait for a process whose relay is gone."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from taskobs.relay_client.undelivered import Undelivered


def test_another_thread_may_take_frames_while_one_is_added() -> None:
    """Two threads of mine log when the relay is given up: nothing is lost, and nothing sent twice.

    Python changes threads when a call of a C function returns, as it calls a profiler.
    """
    undelivered, taken = Undelivered(), list[bytes]()

    def change(frame: FrameType, event: str, _: Any) -> None:
        if event == "c_return" and frame.f_code is Undelivered.add.__code__:
            sys.setprofile(None)
            taken.extend(undelivered.take(1, b""))
            sys.setprofile(change)

    undelivered.add([(1, b"first")])
    sys.setprofile(change)
    try:
        undelivered.add([(1, b"second"), (1, b"third")])
    finally:
        sys.setprofile(None)
    assert [*taken, *undelivered.take(1, b"")] == [b"first", b"second", b"third"]


def test_frames_of_another_prefix_stay() -> None:
    """Each of two clients takes its own frames, once."""
    undelivered = Undelivered()
    undelivered.add([(1, b"a1"), (1, b"b1"), (2, b"a2"), (1, b"a3")])
    assert undelivered.take(1, b"a") == [b"a1", b"a3"]
    assert undelivered.take(1, b"a") == []
    assert undelivered.take(1, b"") == [b"b1"]
    assert undelivered.take(2, b"") == [b"a2"]
    assert undelivered.take(3, b"") == []
