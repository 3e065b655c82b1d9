"""A worker's metrics at one moment, as the main process hands them to the relay.

A snapshot has all that was ever counted. So the relay holds nothing that can be lost with it, and
one that arrives twice counts nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from taskobs.metrics.families import Distribution, Exemplar, Family, LabelValue, Sample
from taskobs.metrics.histogram import OTHER
from taskobs.protocol.frames import MAX_FRAME, pack, unpack
from taskobs.protocol.sanitize import sanitize

_KINDS: Final = frozenset({"counter", "updown", "gauge", "histogram"})
_MALFORMED: Final = "not a snapshot of metrics"
_SERIES: Final = 500
"""Of one part of a family: a payload may hold so many lists and maps (`MAX_CONTAINERS`)."""
_EXEMPLAR: Final = 4
"""Fields of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All metrics of one worker."""

    since: int
    """When counting began, in nanoseconds since the epoch."""
    families: Sequence[Family]
    resource: Mapping[str, Any] = field(default_factory=dict[str, Any])
    schema_url: str = ""


def pack_snapshot(snapshot: Snapshot) -> bytes:
    """Return it as the payload of a METRICS frame; if that is too long, without exemplars."""
    packed = _pack(snapshot, snapshot.families)
    if len(packed) >= MAX_FRAME:
        packed = _pack(snapshot, map(_without_exemplars, snapshot.families))
    return packed


def _pack(snapshot: Snapshot, families: Iterable[Family]) -> bytes:
    parts = [_packed(part) for family in families for part in _parts(family)]
    resource = sanitize(dict(snapshot.resource))
    return pack([snapshot.since, resource, snapshot.schema_url, parts])


def _without_exemplars(family: Family) -> Family:
    series = [one._replace(exemplars={}) for one in family.distributions]
    return replace(family, distributions=series)


def _parts(family: Family) -> Iterator[Family]:
    series = max(len(family.samples), len(family.distributions))
    for start in range(0, series, _SERIES):
        end = start + _SERIES
        samples, distributions = family.samples[start:end], family.distributions[start:end]
        yield replace(family, samples=samples, distributions=distributions)


def unpack_snapshot(payload: bytes) -> Snapshot:
    """Read the payload of a METRICS frame.

    Raises:
        ValueError: it is none.
    """
    try:
        since, resource, schema_url, families = unpack(payload)
        return Snapshot(
            since=_checked(since, int),
            families=_whole(_family(unpack(_checked(one, bytes))) for one in families),
            resource=cast("Mapping[str, Any]", _checked(resource, dict)),
            schema_url=_checked(schema_url, str),
        )
    except (TypeError, KeyError) as error:
        raise ValueError(_MALFORMED) from error


def _whole(parts: Iterable[Family]) -> list[Family]:
    """Return families of parts that follow each other."""
    found: list[Family] = []
    for part in parts:
        if found and _head(found[-1]) == _head(part):
            before = found.pop()
            samples = [*before.samples, *part.samples]
            distributions = [*before.distributions, *part.distributions]
            part = replace(part, samples=samples, distributions=distributions)  # noqa: PLW2901  # the whole so far
        found.append(part)
    return found


def _head(family: Family) -> list[object]:
    named = [family.name, family.kind, family.meaning, family.unit]
    scope = family.scope, family.scope_version, family.scope_schema
    return [*named, *scope, [*family.bounds]]


def _packed(family: Family) -> bytes:
    head = _head(family)
    samples = [[one.labels, one.value] for one in family.samples]
    series = [
        [one.labels, [*one.counts], one.total, _exemplars(one.exemplars)]
        for one in family.distributions
    ]
    try:
        return pack([*head, samples, series])
    except (TypeError, ValueError, OverflowError):  # names that are no text for msgpack
        return pack(sanitize([*head, samples, series]))


def _exemplars(found: Mapping[int, Exemplar]) -> list[object]:
    return [
        field for index, one in found.items() for field in (index, one.labels, one.value, one.at)
    ]


def _family(row: Any) -> Family:  # noqa: ANN401  # as received
    name, kind, meaning, unit, scope, version, schema, bounds, samples, series = row
    if kind not in _KINDS:
        raise ValueError(_MALFORMED)
    found = [_distribution(one, len(bounds) + 1) for one in series]
    return Family(
        name=_checked(name, str),
        kind=kind,
        meaning=_checked(meaning, str),
        unit=_checked(unit, str),
        scope=_checked(scope, str),
        scope_version=_checked(version, str),
        scope_schema=_checked(schema, str),
        samples=[Sample(_labels(labels), _number(value)) for labels, value in samples],
        bounds=[_number(bound) for bound in bounds],
        distributions=found,
    )


def _distribution(row: Any, buckets: int) -> Distribution:  # noqa: ANN401  # as received
    labels, counts, total, exemplars = row
    if len(counts) != buckets:
        raise ValueError(_MALFORMED)
    return Distribution(
        _labels(labels),
        [int(_number(count)) for count in counts],
        _number(total),
        dict(
            _exemplar(*exemplars[at : at + _EXEMPLAR]) for at in range(0, len(exemplars), _EXEMPLAR)
        ),
    )


def _exemplar(index: object, labels: object, value: object, at: object) -> tuple[int, Exemplar]:
    return _checked(index, int), Exemplar(_labels(labels), _number(value), _number(at))


def _labels(value: object) -> dict[str, LabelValue]:
    found = cast("dict[object, object]", _checked(value, dict))
    return {
        str(name): one if isinstance(one, (str, bool, int, float)) else OTHER
        for name, one in found.items()
    }


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(_MALFORMED)
    return value


def _checked(value: object, kind: type[Any]) -> Any:  # noqa: ANN401  # of that type
    if not isinstance(value, kind):
        raise TypeError(_MALFORMED)
    return value
