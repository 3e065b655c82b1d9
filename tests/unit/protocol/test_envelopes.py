from __future__ import annotations

import pytest

from taskobs.protocol import envelopes
from taskobs.protocol.frames import MAX_FRAME, FrameError, FrameKind, encode


def test_an_envelope_comes_back_with_its_destination() -> None:
    payload = envelopes.prefix(b"where") + b"what"
    assert envelopes.split(payload) == (b"where", b"what")


def test_an_envelope_that_fills_its_room_fits_a_frame() -> None:
    """What is cut to the room that is left for it is not refused afterwards."""
    payload = envelopes.prefix(b"where") + bytes(envelopes.room(b"where"))
    assert len(encode(FrameKind.ENVELOPE, payload)) == MAX_FRAME + 4


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", b"\0\0\0\5wher", b"\xff\xff\xff\xffwhere"])
def test_a_payload_that_is_too_short_is_refused(payload: bytes) -> None:
    with pytest.raises(FrameError, match="too short"):
        envelopes.split(payload)
