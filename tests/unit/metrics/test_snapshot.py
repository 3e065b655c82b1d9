"""A snapshot arrives as it was, and nonsense is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from taskobs.metrics.changes import Baseline
from taskobs.metrics.families import Distribution, Exemplar, Family, Sample
from taskobs.metrics.moment import Moment
from taskobs.metrics.snapshot import Snapshot, pack_snapshot, unpack_snapshot
from taskobs.protocol.frames import pack

COUNTER = Family(
    name="celery.task.received",
    kind="counter",
    meaning="Messages.",
    unit="{message}",
    samples=[Sample({"celery.queue": "a"}, 3), Sample({"celery.queue": "b"}, 4)],
    bounds=[],
    distributions=[],
)
HISTOGRAM = Family(
    name="celery.task.duration",
    kind="histogram",
    meaning="How long.",
    unit="s",
    samples=[],
    bounds=[0.1, 1.0],
    distributions=[
        Distribution(
            {"celery.queue": "a"}, [1, 0, 2], 7.5, {2: Exemplar({"trace_id": "7"}, 3.0, 1.5)}
        )
    ],
)
WHOLE = Snapshot(since=5, families=[COUNTER, HISTOGRAM], resource={"service.name": "shop"})


def test_a_snapshot_arrives_as_it_was() -> None:
    """What my worker has counted is what is exported, with the ids of traces."""
    assert unpack_snapshot(pack_snapshot(WHOLE)) == WHOLE


def test_many_series_fit() -> None:
    """I have 500 tasks in four queues: all of their series fit into one snapshot."""
    samples = [Sample({"t": f"task {t}", "q": f"queue {q}"}, t) for t in range(500) for q in "abcd"]
    distributions = [
        Distribution({"t": f"task {t}", "q": f"queue {q}"}, [t] * 3, t, {})
        for t in range(500)
        for q in "abcd"
    ]
    families = [
        Family(name=str(n), kind="counter", meaning="", samples=samples) for n in range(5)
    ] + [
        Family(
            name=f"h{n}", kind="histogram", meaning="", bounds=[1, 2], distributions=distributions
        )
        for n in range(5)
    ]
    packed = pack_snapshot(Snapshot(since=1, families=families))
    assert len(packed) < 4 * 1024 * 1024
    assert len(unpack_snapshot(packed).families) == 10


def test_many_series_with_exemplars_arrive_as_they_were() -> None:
    """Each of 2,000 series has the id of a trace in each bucket: all arrive, and in one piece."""
    exemplars = {index: Exemplar({"trace_id": f"{index:032x}"}, 0.5, 1.5) for index in range(3)}
    series = [Distribution({"t": str(n)}, [n] * 3, 1.5, exemplars) for n in range(2_000)]
    whole = replace(HISTOGRAM, distributions=series)
    found = unpack_snapshot(pack_snapshot(Snapshot(since=1, families=[COUNTER, whole, COUNTER])))
    assert found.families == [COUNTER, whole, COUNTER]


def test_what_is_too_long_arrives_without_exemplars(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many ids of traces have no room in a message: the counts arrive without them."""
    monkeypatch.setattr("taskobs.metrics.snapshot.MAX_FRAME", len(pack_snapshot(WHOLE)))
    found = unpack_snapshot(pack_snapshot(WHOLE)).families[1].distributions[0]
    assert (found.counts, found.exemplars) == ([1, 0, 2], {})


def test_names_that_are_no_text_stop_no_snapshot() -> None:
    """A queue has a name that can't be encoded: it is replaced, and all else arrives."""
    strange = Family(name="x", kind="gauge", meaning="", samples=[Sample({"q": "\ud800"}, 1)])
    found = unpack_snapshot(pack_snapshot(Snapshot(since=1, families=[strange, COUNTER])))
    assert [family.name for family in found.families] == ["x", COUNTER.name]


NOTHING: dict[str, str] = {}
EMPTY: tuple[list[int], ...] = ([], [], [])


def packed(row: list[Any]) -> bytes:
    return pack([1, NOTHING, "", [pack(row)]])


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        pack(3),
        pack([1, NOTHING, ""]),
        pack(["1", NOTHING, "", [b""]]),
        pack([1, [1], "", [b""]]),
        pack([1, NOTHING, "", [3]]),
        pack([1, NOTHING, "", [b"\xc1"]]),
        packed(["n", "sum", "", "", *EMPTY]),
        packed([1, "counter", "", "", *EMPTY]),
        packed(["n", "counter", "", "", [], [[NOTHING, "1"]], []]),
        packed(["n", "counter", "", "", [], [[3, 1]], []]),
        packed(["n", "counter", "", "", [], [[NOTHING, True]], []]),
        packed(["n", "histogram", "", "", [1], [], [[NOTHING, [1], 1, []]]]),
        packed(["n", "histogram", "", "", ["x"], [], []]),
    ],
    ids=repr,
)
def test_what_is_no_snapshot_is_refused(payload: bytes) -> None:
    """A faulty process sends nonsense: it does not become a metric."""
    with pytest.raises(ValueError, match=r"\w"):
        unpack_snapshot(payload)


def test_changes_add_up_to_the_sums() -> None:
    """My backend wants deltas: they are what came since the last accepted ones."""
    baseline = Baseline()
    assert baseline.changes(COUNTER) == COUNTER
    baseline.accepted([COUNTER, HISTOGRAM], Moment())
    assert [one.value for one in baseline.changes(COUNTER).samples] == [0, 0]
    [still] = baseline.changes(HISTOGRAM).distributions
    assert (still.counts, still.total) == ([0, 0, 0], 0)
