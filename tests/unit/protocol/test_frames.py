from __future__ import annotations

import contextlib
import random
import time

import pytest

from taskobs.protocol import frames
from taskobs.protocol.frames import MAX_FRAME, FrameError, FrameKind, Splitter, encode, pack, unpack


def test_frames_come_out_as_they_went_in_however_they_are_cut() -> None:
    """The stream may arrive in pieces of any size."""
    sent = [(kind, bytes([kind]) * (kind * 37)) for kind in FrameKind]
    stream = b"".join(encode(kind, payload) for kind, payload in sent)
    chance = random.Random(7)  # noqa: S311  # no secret
    for longest in (1, 3, 100, len(stream)):
        splitter, found, at = Splitter(), list[tuple[FrameKind, bytes]](), 0
        while at < len(stream):
            piece = stream[at : at + chance.randint(1, longest)]
            found += splitter.feed(piece)
            at += len(piece)
        assert found == sent
        assert splitter.held == 0


def test_a_frame_has_a_length_a_kind_and_a_payload() -> None:
    """The length counts the kind and the payload."""
    assert encode(FrameKind.END, b"abc") == b"\x00\x00\x00\x04\x04abc"
    assert encode(FrameKind.CLOSED) == b"\x00\x00\x00\x01\x22"


def test_nobody_sends_or_accepts_a_frame_that_is_too_long() -> None:
    """A sender hears of it; a receiver gives up at the head, before anything is held."""
    assert len(encode(FrameKind.END, bytes(MAX_FRAME - 1))) == MAX_FRAME + 4
    with pytest.raises(FrameError, match="at most"):
        encode(FrameKind.END, bytes(MAX_FRAME))
    splitter = Splitter()
    with pytest.raises(FrameError):
        splitter.feed((MAX_FRAME + 1).to_bytes(4, "big") + b"\x04")
    with pytest.raises(FrameError):
        Splitter(limit=10).feed(encode(FrameKind.ACK, bytes(10)))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x00\x00\x00\x00\x01",
        b"\x00\x00\x00\x01\x00",
        b"\x00\x00\x00\x01\xff",
        b"\xff\xff\xff\xff\x01",
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    """Another protocol, a frame without a kind, of an unknown kind, of an absurd length."""
    with pytest.raises(FrameError):
        Splitter().feed(data)


def test_a_peer_that_drips_bytes_costs_no_more_than_one_that_pours_them() -> None:
    """Time is in proportion to the bytes, and one frame is held at most."""
    stream = encode(FrameKind.END, bytes(300_000)) * 2
    splitter, found, most = Splitter(), 0, 0
    began = time.process_time()
    for at in range(0, len(stream), 7):
        found += len(splitter.feed(stream[at : at + 7]))
        most = max(most, splitter.held)
    assert found == 2
    assert most <= len(stream) // 2
    assert time.process_time() - began < 10  # copying what is held at each piece: minutes


def test_values_come_back_as_they_were() -> None:
    """What an attribute may be survives, with its type."""
    value: list[object] = [None, True, 1, -(1 << 63), 1.5, "ü", b"\xff", {"a": [1, {"b": []}]}]
    assert unpack(pack(value)) == value


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x91",
        b"\x01\x02",
        b"\xc1",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdd\x00\x40\x00\x00" + b"\xc0" * 0x400000,
        b"\xdc\xff\xff" + b"\x90" * 0xFFFF,
        b"\xdf\x00\xff\xff\xff",
        b"\xa2\xff\xfe",
        b"\x81\x01\x02",
        b"\x81\x90\x02",
        b"\xc7\x00\x05",
        b"\xd4\x05\x00",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xc9\xff\xff\xff\xff\x05",
    ],
    ids=lambda payload: payload[:6].hex() + f"-{len(payload)}",
)
def test_a_payload_that_could_harm_is_refused(payload: bytes) -> None:
    """Truncated, nested without end, absurdly long, not UTF-8, odd keys, extension types."""
    with pytest.raises(FrameError):
        unpack(payload, limit=8 * 1024 * 1024)


def test_a_payload_may_be_held_to_a_length() -> None:
    """A receiver that expects a number takes nothing longer."""
    with pytest.raises(FrameError, match="at most 8 are allowed"):
        unpack(pack("twelve bytes"), limit=8)


def test_noise_is_refused_or_harmless() -> None:
    """No bytes raise anything but a FrameError."""
    chance = random.Random(11)  # noqa: S311  # no secret
    for _ in range(3_000):
        data = chance.randbytes(chance.randint(0, 60))
        for use in (Splitter().feed, unpack):
            with contextlib.suppress(FrameError):
                use(data)


def test_packing_in_the_midst_of_packing_disturbs_neither() -> None:
    """A finalizer, or another thread, may pack while a packer is at work."""

    class Reentrant(dict[str, object]):
        def items(self) -> object:  # type: ignore[override]
            seen.append(pack(["inner"]))
            return super().items()

    seen: list[bytes] = []
    assert unpack(pack([Reentrant(a=1), "outer"])) == [{"a": 1}, "outer"]
    assert [unpack(data) for data in seen] == [["inner"]]


def test_a_packer_that_has_raised_is_not_used_again() -> None:
    """What it had written before does not turn up in the next payload."""
    with pytest.raises((TypeError, ValueError)):
        pack(["half", object()])
    assert unpack(pack(["whole"])) == ["whole"]
    assert len(frames._idle) < 100  # pyright: ignore[reportPrivateUsage]
