"""What stands in front of the sampler that decides."""

from __future__ import annotations

from typing import TypeVar

SamplerT = TypeVar("SamplerT")


def deciding(sampler: object) -> object:
    """Return the sampler that decides, also if one of ours passes its decisions on."""
    return getattr(sampler, "taskobs_decides", sampler)


def deciding_by(sampler: object, decides: SamplerT) -> SamplerT:
    """Return ``decides``, behind one of ours if ``sampler`` is."""
    before = getattr(sampler, "taskobs_before", None)
    found: SamplerT = decides if before is None else before(decides)
    return found
