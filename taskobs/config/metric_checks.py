"""Checks of the settings of metrics; see ``taskobs.config.checks``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, cast

from taskobs import semconv
from taskobs.config.checks import Refused, ValueCheck, shown

_HISTOGRAMS: Final = (
    semconv.METRIC_TASK_DURATION,
    semconv.METRIC_TASK_QUEUE_WAIT,
    semconv.METRIC_TASK_PREFETCH_WAIT,
)
_MOST: Final = 100
_EXAMPLE: Final = {semconv.METRIC_TASK_DURATION: [0.1, 1, 10]}


def _port(value: object) -> int:
    problem, example = "not a port from 1 to 65535, nor 0 for any free one", 9808
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and text.isascii() and text.isdecimal():
        text = int(text)
    if isinstance(text, bool) or not isinstance(text, int) or not 0 <= text <= 65_535:  # noqa: PLR2004  # named above
        raise Refused(problem, example)
    return text


def _buckets(value: object) -> Mapping[str, Sequence[float]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Refused("not JSON", json.dumps(_EXAMPLE)) from None
    if not isinstance(value, Mapping):
        raise Refused("not a mapping of metrics to bounds in seconds", _EXAMPLE)
    found: dict[str, Sequence[float]] = {}
    for name, bounds in cast("Mapping[object, object]", value).items():
        if name not in _HISTOGRAMS:
            raise Refused(f"{name!r} is no metric with buckets: {', '.join(_HISTOGRAMS)}", _EXAMPLE)
        found[str(name)] = _bounds(str(name), bounds)
    return found


def _bounds(name: str, value: object) -> Sequence[float]:
    problem = f"the bounds of {name} are no list of 1 to {_MOST} rising numbers above 0"
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise Refused(problem, _EXAMPLE)
    given = cast("Sequence[object]", value)
    if not 0 < len(given) <= _MOST:
        raise Refused(problem, _EXAMPLE)
    bounds: list[float] = []
    for one in given:
        if isinstance(one, bool) or not isinstance(one, (int, float)) or not _is_finite(one):
            raise Refused(problem, _EXAMPLE)
        bounds.append(float(one))
    if bounds[0] <= 0 or any(a >= b for a, b in pairwise(bounds)):
        raise Refused(problem, _EXAMPLE)
    return bounds


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an int that is no float
        return False


PORT: Final = ValueCheck(_port, shown)
BUCKETS: Final = ValueCheck(_buckets, shown)
